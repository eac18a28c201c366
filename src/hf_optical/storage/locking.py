"""Locks between processes that read, write or train in the same folder."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# Seconds to wait for a reader or writer, which may be stopped rather than slow.
_PATIENCE = 60.0
_RUN_LOCK = ".run.lock"
# Errors of file systems without locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def shared_lock(*folders: str | os.PathLike) -> Iterator[None]:
    """
    Hold shared locks on `folders` so that writers cannot replace files while they are read.

    After a minute of waiting, or where the file system has no locks, the block runs without.
    """
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(folder_lock(Path(folder), exclusive=False))
        yield


@contextmanager
def run_lock(directory: str | os.PathLike) -> Iterator[None]:
    """Reserve a folder for one training run until its process ends; `FileExistsError` if another one uses it."""
    path = Path(directory) / _RUN_LOCK
    lock = FileLock(path)
    try:
        acquire(lock, blocking=False)
    except Timeout:
        raise FileExistsError(
            f"output_dir {directory} is in use by another run; wait until it has ended, or choose another output_dir"
        ) from None
    try:
        yield
    finally:
        # Before the release: after it, the file may be the lock of the next run.
        with suppress(OSError):
            path.unlink()
        lock.release()


def acquire(lock: FileLock, *, blocking: bool = True) -> None:
    """Acquire a file lock, or do nothing where the file system has no locks."""
    try:
        lock.acquire(blocking=blocking)
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
            raise


@contextmanager
def folder_lock(folder: Path, *, exclusive: bool, patience: float | None = None) -> Iterator[bool]:
    """
    Lock a folder itself, without a file; gives `False` if others keep the lock for `patience` seconds.

    A writer holds one such lock and waits for no other, so there are no deadlocks.
    """
    descriptor = None
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY) if fcntl else None
    try:
        yield descriptor is None or _flock(descriptor, exclusive, _PATIENCE if patience is None else patience)
    finally:
        if descriptor is not None:
            # Closing alone is not enough: a process that was forked in the block has the descriptor open too.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _flock(descriptor: int, exclusive: bool, patience: float) -> bool:
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.005)
        except OSError:  # the file system has no locks
            return True
        else:
            return True
