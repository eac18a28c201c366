"""Writes that are all or nothing: a killed process leaves all the old files of a folder or all the new ones."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from .locking import acquire, folder_lock


# Errors that mean that nothing can be written there, however much space there is.
_NOT_HERE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.ENOENT, errno.ENAMETOOLONG),
    *(errno.EISDIR, errno.ENOTEMPTY, errno.EBUSY, errno.EXDEV),
)


class _Staging:
    """
    One write to a folder: a hidden folder `.saving-*` in it, whose contents say how far the write has come.

    | State    | Contents                                   | After a kill, the next user of the folder |
    |----------|--------------------------------------------|-------------------------------------------|
    | writing  | `new/`: the files so far                   | removes it: all old files are in place    |
    | complete | `complete/`: files that still have to move | moves them: all new files are in place    |
    | moved    | neither                                    | removes it: all new files are in place    |

    One rename, of `new` to `complete` once all files are on the disk, makes the write certain. Each file is then
    renamed over its older version, which can be repeated until all have moved. In every state, `discarded/` marks the
    files that go when the new ones come, and `lock` is held by the process that writes for as long as it lives.
    """

    PREFIX = ".saving-"

    def __init__(self, folder: Path):
        self.folder = folder
        self.target = folder.parent
        self.new, self.complete, self.discarded = (folder / name for name in ("new", "complete", "discarded"))
        self.lock = FileLock(folder / "lock")

    @classmethod
    def begin(cls, directory: Path) -> _Staging:
        """Start a write to `directory`, in the state "writing"."""
        while True:
            staging = cls(Path(tempfile.mkdtemp(prefix=cls.PREFIX, dir=directory)))
            # Until it is locked, another process may take the folder for an abandoned one and remove it; try again.
            with suppress(FileNotFoundError, FileExistsError):
                acquire(staging.lock)
                staging.new.mkdir()
                return staging

    @classmethod
    def around(cls, path: Path) -> _Staging | None:
        """The write that `path` is part of, if it is part of one."""
        folders = (each.parent for each in (path, *path.parents) if each.name == "new")
        return next((cls(folder) for folder in folders if folder.name.startswith(cls.PREFIX)), None)

    @classmethod
    def recover_all(cls, directory: Path) -> None:
        """End the writes to `directory` of processes that no longer run, whose locks are free."""
        for folder in directory.glob(f"{cls.PREFIX}*"):
            with suppress(OSError, NotImplementedError):
                cls(folder)._recover()

    def flush(self) -> None:
        """Wait until the new files are on the disk, with the permissions that this process gives to any file."""
        usual = self.new.stat().st_mode & 0o666
        for path in self.new.rglob("*"):
            if path.is_file():  # safetensors lets only their owner read its files
                path.chmod(path.stat().st_mode | usual)
        flush(self.folder, deep=True)

    def commit(self) -> None:
        """Go from "writing" to "complete", unless a folder is in the place of one of the files."""
        targets = [self.target / name for name in _files_in(self.new)]
        for target in targets:
            if target.is_dir() and not target.is_symlink():
                raise IsADirectoryError(errno.EISDIR, f"{target} is a folder, but a file has to go there")
        for target in targets:  # now, while a full disk still changes nothing
            target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.new, self.complete)

    def move(self) -> None:
        """Go from "complete" to "moved". Where this was interrupted, the same call does the rest."""
        flush(self.folder)
        discarded, files = _files_in(self.discarded), _files_in(self.complete)
        for name, mark in discarded.items():
            _remove(self.target / name)
            mark.unlink()
        for name, path in files.items():
            (self.target / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, self.target / name)
        for folder in {Path(), *(parent for name in [*discarded, *files] for parent in name.parents)}:
            with suppress(FileNotFoundError):
                flush(self.target / folder)
        shutil.rmtree(self.complete, ignore_errors=True)

    def clear(self) -> None:
        """Remove the folder; but if files still have to move, leave it to the next user of `target`."""
        if not self.complete.exists():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _recover(self) -> None:
        if not self._leads_elsewhere():
            with self.lock.acquire(blocking=False):
                if self.complete.is_dir():
                    self.move()
                self.clear()

    def _leads_elsewhere(self) -> bool:
        """Whether recovery could change files outside of `target`, as a folder made by an attacker might try."""
        lock = Path(self.lock.lock_file)
        if self.folder.is_symlink() or lock.exists() and (not lock.is_file() or lock.stat().st_nlink > 1):
            return True
        for path in self.folder.rglob("*"):
            part, *names = path.relative_to(self.folder).parts
            goes_through = Path(*names).parents[:-1] if part != self.new.name else ()
            if path.is_symlink() or any((self.target / each).is_symlink() for each in goes_through):
                return True
        return False


@contextmanager
def staged_directory(directory: str | os.PathLike) -> Iterator[Path]:
    """
    Give an empty folder whose files move into `directory` when the block ends: all of them, or none.

    Every file is flushed to the disk and then renamed over its older version; other files of `directory` stay as they
    are. If the block or the disk fails, nothing has changed. If the process is killed, nothing has changed either, or
    [`recover`] completes the renames.

    A block within a block, for a folder inside the one that the outer block gave, writes to that folder directly, and
    its files move with those of the outer block.

    Raises `OSError`, which names the folder and the cure, if the disk is full or `directory` cannot be written.
    """
    directory = Path(directory)
    if _Staging.around(directory):
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        recover(directory)
        staging = _Staging.begin(directory)
    except OSError as error:
        raise OSError(error.errno, f"cannot write to {directory} ({error.strerror}); {_cure(error.errno)}") from error
    try:
        yield staging.new
        staging.flush()
        with folder_lock(directory, exclusive=True):
            # Another writer may have been killed since this one began; its files are the older ones.
            _Staging.recover_all(directory)
            staging.commit()
            staging.move()
    except Exception:
        with explain_write_errors(directory):
            raise
    finally:
        staging.lock.release()
        staging.clear()


def discard(path: str | os.PathLike) -> None:
    """Remove a file or folder, given by its path in a [`staged_directory`], when the files of that block move."""
    path = Path(path)
    staging = _Staging.around(path)
    assert staging is not None, f"{path} is not in a folder that staged_directory gave"
    path.unlink(missing_ok=True)
    mark = staging.discarded / path.relative_to(staging.new)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def recover(directory: str | os.PathLike) -> None:
    """
    End the writes to `directory` of killed processes: move the files of complete ones, remove the others.

    Nothing happens if `directory` cannot be written or is being read, and no link is followed out of it.
    """
    directory = Path(directory)
    if any(directory.glob(f"{_Staging.PREFIX}*")):
        with folder_lock(directory, exclusive=True, patience=0) as locked:
            if locked:
                _Staging.recover_all(directory)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Replace the text of a file in one step."""
    path = Path(path)
    with staged_directory(path.parent) as staged:
        (staged / path.name).write_text(text, encoding="utf-8")


@contextmanager
def explain_write_errors(directory: str | os.PathLike) -> Iterator[None]:
    """Make errors of the disk say which folder could not be written and what to do about it."""
    try:
        yield
    except Exception as error:
        number, explained = _error_number(error), isinstance(error, OSError) and error.__cause__ is not None
        if number is None or explained:
            raise
        reason = getattr(error, "strerror", None) or error
        raise OSError(
            number,
            f"could not save to {directory} ({reason}); {_cure(number)}, then save again. No complete save is lost",
        ) from error


def flush(path: str | os.PathLike[str], *, deep: bool = False) -> None:
    """Wait until the disk holds a file, or the names in a folder; with `deep`, everything in the folder too."""
    for parent, folders, files in os.walk(path) if deep else ():
        for name in [*folders, *files]:
            # Other processes may remove theirs.
            with suppress(FileNotFoundError):
                _fsync(os.path.join(parent, name))
    _fsync(path)


def _fsync(path: str | os.PathLike) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _files_in(folder: Path) -> dict[Path, Path]:
    """Everything in a folder but folders, by relative path; links are not followed."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder): path for path in paths}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _cure(number: int | None) -> str:
    """What to do about an error number of the system."""
    if number in (errno.EMFILE, errno.ENFILE):
        return "allow more open files (ulimit -n)"
    return "choose another folder" if number in _NOT_HERE else "free some space or choose another folder"


def _error_number(error: Exception) -> int | None:
    """The error number of the system, if `error` is about the disk."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    # safetensors and tokenizers raise exceptions of their own, with the system's number in the text.
    found = re.search(r"\(os error (\d+)\)", str(error))
    # torch only names the line of its source.
    return int(found[1]) if found else errno.EIO if "inline_container.cc" in str(error) else None
