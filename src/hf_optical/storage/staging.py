"""Writing so that a half-written file is never taken for a whole one."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


try:
    import fcntl
except ImportError:
    fcntl = None

_PREFIX = ".saving-"
# In such a folder: the lock that its writer holds; what is being written, and what is to go; the former once all of it
# is on the disk, and once it turned out that it cannot be moved in; what it replaced, and what had nothing to replace.
_LOCK, _NEW, _GONE, _WHOLE, _BACK, _OLD, _ADDED = "lock", "new", "gone", "whole", "back", "old", "added"
# Seconds for which who writes waits for those who read, and the other way round. Somebody may be stopped, not slow.
_PATIENCE = 60.0
_RUN_LOCK = ".run.lock"
# What is answered where nothing can be written, however much space there is.
_NOT_HERE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.ENOENT, errno.ENAMETOOLONG),
    *(errno.EISDIR, errno.ENOTEMPTY, errno.EBUSY, errno.EXDEV),
)
# What file systems answer that know of no locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def staged_directory(directory: str | os.PathLike) -> Iterator[Path]:
    """
    Gives an empty folder inside `directory`; what is written into it moves into `directory` when the block ends.

    Every file is flushed to the disk first and then renamed over its older version, so `directory` holds, file by
    file, the old text or the new one and never a part of it. If the block fails, or one of the files cannot be moved,
    the files of `directory` are as they were. If the process is killed, too; or, where it was killed between two
    renames, [`settle`] does the others.

    A block inside of another, for a folder in the one that this gave, writes straight into it: all of it moves when
    the outer one ends, or none.

    Args:
        directory (`str` or `os.PathLike`):
            The folder to write. Created if need be.

    Raises:
        OSError: the disk is full, or `directory` cannot be written. The message names the folder and the cure.
    """
    directory = Path(directory)
    if _staging_of(directory):
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        settle(directory)
        staging, lock = _begin(directory)
    except OSError as error:
        raise OSError(error.errno, f"cannot write to {directory} ({error.strerror}); {_cure(error.errno)}") from error
    try:
        yield staging / _NEW
        _make_whole(staging)
        with _locked(directory, alone=True):
            # Another may have died half-way since this one began, and would be gone on with over it.
            _settle(directory, but=staging)
            _move(staging)
    except Exception:
        with saving_to(directory):
            raise
    finally:
        lock.release()
        _clear(staging)


def discard(path: str | os.PathLike) -> None:
    """
    Has a file or folder go when a block of [`staged_directory`] ends, together with what moves in.

    Args:
        path (`str` or `os.PathLike`): its place, in the folder that the block was given.
    """
    path = Path(path)
    staging = _staging_of(path)
    path.unlink(missing_ok=True)
    mark = staging / _GONE / path.relative_to(staging / _NEW)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


@contextmanager
def reading(*folders: str | os.PathLike) -> Iterator[None]:
    """
    A block in which nothing moves into `folders`, for who reads several files that belong together. Many may read.

    It does not wait for ever, and where the file system knows of no locks, not at all.
    """
    with ExitStack() as stack:
        for folder in folders:
            stack.enter_context(_locked(Path(folder), alone=False))
        yield


@contextmanager
def saving_to(directory: str | os.PathLike) -> Iterator[None]:
    """
    Has an error of the disk say what could not be saved and what to do, unless it does already.

    Raises:
        OSError: in place of what the system or a library says of a disk.
    """
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number is None or isinstance(error, OSError) and error.__cause__ is not None:
            raise
        raise OSError(
            number,
            f"could not save to {directory} ({getattr(error, 'strerror', None) or error}). What was there before is "
            f"unharmed; {_cure(number)}, then save again",
        ) from error


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes `text` to `path` in one step: beside it, flushed, then renamed over it."""
    path = Path(path)
    with staged_directory(path.parent) as staged:
        (staged / path.name).write_text(text, encoding="utf-8")


def settle(directory: str | os.PathLike) -> None:
    """
    Ends what processes that are gone began in `directory` with [`staged_directory`]: what was whole moves in, anything
    else is removed. What a living process is at stays, and so does all if `directory` may not be written, or is being
    read. Links are not followed: what one of them would lead out of `directory` is left alone.
    """
    directory = Path(directory)
    if next(directory.glob(f"{_PREFIX}*"), None) is not None:
        with _locked(directory, alone=True, patience=0) as locked:
            if locked:
                _settle(directory)


@contextmanager
def sole_run(directory: str | os.PathLike) -> Iterator[None]:
    """
    A block in which one run alone is at work in a folder. However its process ends, the folder is free again.

    Nothing is held where the file system knows of no locks.

    Raises:
        FileExistsError: another run is at work there.
    """
    path = Path(directory) / _RUN_LOCK
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise FileExistsError(
            f"another run is at work in output_dir {directory}; wait until it has ended, or choose another output_dir"
        ) from None
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
            raise
    try:
        yield
    finally:
        # While it is held: behind that, the file may be the next run's.
        with suppress(OSError):
            path.unlink()
        lock.release()


def flush(path: str | os.PathLike, *, deep: bool = False) -> None:
    """Waits until the disk holds a file, or the names in a folder; with `deep` all that is in the folder too."""
    for parent, folders, files in os.walk(path) if deep else ():
        for name in [*folders, *files]:
            # Others may remove theirs meanwhile.
            with suppress(FileNotFoundError):
                _flush(os.path.join(parent, name))
    _flush(path)


def _flush(path: str | os.PathLike) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _staging_of(path: Path) -> Path | None:
    """The folder of [`_begin`] in which `path` is written, if it is."""
    places = (each.parent for each in (path, *path.parents) if each.name == _NEW)
    return next((each for each in places if each.name.startswith(_PREFIX)), None)


def _begin(directory: Path) -> tuple[Path, FileLock]:
    """A new folder to write in, and the lock that tells others that its owner lives."""
    while True:
        staging = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=directory))
        lock = FileLock(staging / _LOCK)
        # Until it is locked, another process may take the folder for a deserted one and remove it. If it does so while
        # the lock makes sure of its folder, that is told as one that is there.
        with suppress(FileNotFoundError, FileExistsError):
            try:
                lock.acquire()
            except (OSError, NotImplementedError) as error:
                if getattr(error, "errno", errno.ENOSYS) not in _NO_LOCKS:
                    raise
            (staging / _NEW).mkdir()
            return staging, lock


def _make_whole(staging: Path) -> None:
    # safetensors gives its files to their owner alone; here they are as open as any that this process makes.
    usual = (staging / _NEW).stat().st_mode & 0o666
    for path in (staging / _NEW).rglob("*"):
        if path.is_file():
            path.chmod(path.stat().st_mode | usual)
    flush(staging, deep=True)
    os.replace(staging / _NEW, staging / _WHOLE)


def _settle(directory: Path, but: Path | None = None) -> None:
    for staging in directory.glob(f"{_PREFIX}*"):
        with suppress(OSError, NotImplementedError):
            if staging != but and not _leads_out(staging):
                with FileLock(staging / _LOCK).acquire(blocking=False):
                    try:
                        _move(staging)
                    finally:
                        _clear(staging)


def _leads_out(staging: Path) -> bool:
    """Whether ending it could change what is not in its folder, as if somebody had put it there to that end."""
    lock = staging / _LOCK
    if staging.is_symlink() or lock.exists() and (not lock.is_file() or lock.stat().st_nlink > 1):
        return True
    for path in staging.rglob("*"):
        part, *names = path.relative_to(staging).parts
        # A file that was replaced may have been a link.
        if path.is_symlink() and (part != _OLD or not names or path.is_dir()):
            return True
        if part != _NEW and any((staging.parent / each).is_symlink() for each in Path(*names).parents[:-1]):
            return True
    return False


def _clear(staging: Path) -> None:
    """Removes it, unless Ctrl-C fell between two renames, or one failed on the way back; that is made up for later."""
    if not (staging / _WHOLE).exists() and not (staging / _BACK).exists():
        shutil.rmtree(staging, ignore_errors=True)


def _move(staging: Path) -> None:
    """Moves in what is whole. If that fails, or did when its process was killed, what was there before is put back."""
    if (staging / _WHOLE).is_dir():
        try:
            _move_in(staging)
        except OSError:
            os.replace(staging / _WHOLE, staging / _BACK)
            _put_back(staging)
            raise
    elif (staging / _BACK).is_dir():
        _put_back(staging)


def _move_in(staging: Path) -> None:
    flush(staging)
    gone, moved = _leaves(staging / _GONE), _leaves(staging / _WHOLE)
    for name, mark in gone.items():
        if os.path.lexists(staging.parent / name):
            _rename(staging.parent / name, staging / _OLD / name)
        mark.unlink()
    for name, path in moved.items():
        _keep(staging, name)
        _rename(path, staging.parent / name)
    _flush_names(staging.parent, [*gone, *moved])
    shutil.rmtree(staging / _WHOLE, ignore_errors=True)


def _keep(staging: Path, name: Path) -> None:
    """Keeps what is about to be replaced, or notes that there is nothing."""
    target, kept = staging.parent / name, staging / _OLD / name
    if os.path.lexists(kept):  # since the process that was killed
        return
    if not os.path.lexists(target):
        mark = staging / _ADDED / name
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        return
    if target.is_dir() and not target.is_symlink():
        raise IsADirectoryError(errno.EISDIR, f"{target} is a folder, and a file is to go there")
    kept.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(target, kept, follow_symlinks=False)
    except (OSError, NotImplementedError):  # not everywhere may a file have two names
        os.replace(target, kept)


def _put_back(staging: Path) -> None:
    added, old = _leaves(staging / _ADDED), _leaves(staging / _OLD)
    for name in added:
        if os.path.lexists(staging.parent / name):
            (staging.parent / name).unlink()
    for name, path in old.items():
        _rename(path, staging.parent / name)
    _flush_names(staging.parent, [*added, *old])
    os.replace(staging / _BACK, staging / _NEW)


def _leaves(folder: Path) -> dict[Path, Path]:
    """All but the folders in a folder, by their place in it; links are not followed."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder): path for path in paths}


def _rename(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, target)


def _flush_names(directory: Path, names: list[Path]) -> None:
    for folder in {Path(), *(parent for name in names for parent in name.parents)}:
        with suppress(FileNotFoundError):
            flush(directory / folder)


@contextmanager
def _locked(folder: Path, *, alone: bool, patience: float | None = None) -> Iterator[bool]:
    """
    A lock on a folder itself, which leaves nothing behind: for one, or for many. Gives `False` if others kept it.

    Who writes holds one lock of this kind and waits for no other meanwhile, so that none waits in a circle.
    """
    descriptor = None
    with suppress(OSError):
        descriptor = fcntl and os.open(folder, os.O_RDONLY)
    try:
        yield descriptor is None or _lock(descriptor, alone, _PATIENCE if patience is None else patience)
    finally:
        if descriptor is not None:
            # By itself closing is not enough: a process that was forked meanwhile has it open too.
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _lock(descriptor: int, alone: bool, patience: float) -> bool:
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.005)
        except OSError:  # there are no locks to be had
            return True
        else:
            return True


def _cure(number: int | None) -> str:
    """What to do about the answer of the system."""
    if number in (errno.EMFILE, errno.ENFILE):
        return "allow more open files (ulimit -n)"
    return "choose another folder" if number in _NOT_HERE else "free some space or choose another folder"


def _error_number(error: Exception) -> int | None:
    """What the system answered, if that is what `error` is about."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    # safetensors and tokenizers report a full disk as exceptions of their own, with the system's answer in the text.
    found = re.search(r"\(os error (\d+)\)", str(error))
    # And torch with nothing but the line of its own that saw it.
    return int(found[1]) if found else errno.EIO if "inline_container.cc" in str(error) else None
