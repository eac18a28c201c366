from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor, TimeoutError

import pytest
from filelock import FileLock

from hf_optical.storage import locking
from hf_optical.storage.locking import shared_lock
from hf_optical.storage.staging import discard, flush, recover, staged_directory, write_text


def listing(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_new_files_move_in_and_other_files_stay(tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    (tmp_path / "old.txt").write_text("old")
    with staged_directory(tmp_path) as staged:
        (staged / "old.txt").write_text("new")
        (staged / "sub").mkdir()
        (staged / "sub" / "deep.txt").write_text("deep")
        assert (tmp_path / "old.txt").read_text() == "old"
    assert listing(tmp_path) == {"kept.txt": "kept", "old.txt": "new", "sub/deep.txt": "deep"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.txt", "old.txt", "sub"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_exception_in_block_keeps_old_files_and_its_type(tmp_path, error):
    (tmp_path / "file").write_text("old")
    with pytest.raises(type(error)), staged_directory(tmp_path) as staged:
        (staged / "file").write_text("half")
        raise error
    assert listing(tmp_path) == {"file": "old"}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), Exception("I/O error: No space left on device (os error 28)")]
)
def test_error_of_full_disk_names_folder_and_cure(tmp_path, error):
    with pytest.raises(
        OSError, match="could not save to .*No space left on device.*; free some .*No complete save is lost"
    ) as caught:
        with staged_directory(tmp_path):
            raise error
    assert caught.value.errno == 28
    assert str(tmp_path) in str(caught.value)
    assert caught.value.__cause__ is error


def test_file_in_place_of_folder_is_error(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in ("file", "file/sub"):
        with pytest.raises(OSError, match=f"cannot write to .*{folder} .*choose another folder"):
            with staged_directory(tmp_path / folder):
                pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_write_permission_is_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match="cannot write to .*Permission denied"), staged_directory(tmp_path):
            pass
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.promise("Safety", "Saved files have the permissions that the umask of the process gives to any new file.")
@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o002, 0o664)])
def test_umask_sets_permissions_of_saved_files(tmp_path, umask, mode):
    tmp_path.chmod(0o755)
    before = os.umask(umask)
    try:
        with staged_directory(tmp_path) as staged:
            (staged / "file").write_text("text")
            (staged / "weights").write_text("text")
            (staged / "weights").chmod(0o600)  # as safetensors has it
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "weights")] == [mode, mode]


def test_discarded_files_are_removed_when_new_files_move_in(tmp_path):
    for name in ("kept", "gone", "sub/gone", "folder/gone", "again"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    with pytest.raises(ValueError), staged_directory(tmp_path) as staged:
        discard(staged / "gone")
        raise ValueError
    assert (tmp_path / "gone").exists()
    with staged_directory(tmp_path) as staged:
        (staged / "gone").write_text("written, then discarded")
        for name in ("gone", "sub/gone", "folder", "again", "never there"):
            discard(staged / name)
        (staged / "again").write_text("new")
        assert (tmp_path / "gone").exists()
    assert listing(tmp_path) == {"kept": "old", "again": "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "kept", "sub"]


def test_inner_block_moves_in_with_outer_block(tmp_path):
    with pytest.raises(ValueError), staged_directory(tmp_path) as staged:
        write_text(staged / "sub" / "file", "text")
        assert (staged / "sub" / "file").read_text() == "text"
        raise ValueError
    assert listing(tmp_path) == {}
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "gone").write_text("old")
    with staged_directory(tmp_path) as staged, staged_directory(staged / "sub") as inner:
        (inner / "file").write_text("text")
        discard(inner / "gone")
    assert listing(tmp_path) == {"sub/file": "text"}


@pytest.mark.promise(
    "Stopping anywhere",
    "If a folder is in the place of one of the new files, saving fails and all old files stay.",
)
def test_folder_in_place_of_file_keeps_all_old_files(tmp_path):
    for name in ("a", "sub/b", "old"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    (tmp_path / "z" / "mine").mkdir(parents=True)
    with pytest.raises(
        OSError, match="could not save to .*z is a folder.*; choose another folder.*No complete save is lost"
    ):
        with staged_directory(tmp_path) as staged:
            for name in ("a", "new", "sub/b", "z"):
                (staged / name).parent.mkdir(exist_ok=True)
                (staged / name).write_text("new")
            discard(staged / "old")
    assert listing(tmp_path) == {"a": "old", "sub/b": "old", "old": "old"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "old", "sub", "z"]


def test_flush_ignores_files_that_others_remove(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).touch()
    fsync = os.fsync

    def remove_all(descriptor):
        for name in ("a", "b"):
            (tmp_path / name).unlink(missing_ok=True)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", remove_all)
    flush(tmp_path, deep=True)


def test_write_text_replaces_file_in_one_step(tmp_path):
    (tmp_path / "old").write_text("old")
    with open(tmp_path / "old") as reader:
        write_text(tmp_path / "old", "neu – 新")
        # An open file still has the old text: the new file was renamed over it.
        assert reader.read() == "old"
    assert (tmp_path / "old").read_text(encoding="utf-8") == "neu – 新"


SAVE = """
    import itertools, os, signal, sys
    from pathlib import Path
    from hf_optical.storage.staging import discard, recover, staged_directory

    def save(folder, text):
        with staged_directory(folder) as staged:
            (staged / "sub").mkdir()
            for name in ("a", "b", "sub/c"):
                (staged / name).write_text(text)
            (staged / "old").write_text(text) if text == "old" else discard(staged / "old")

    def listing(folder):
        files = (path for path in folder.rglob("*") if path.is_file())
        texts = {str(path.relative_to(folder)): path.read_text() for path in files}
        return {name: text for name, text in texts.items() if not name.startswith(".saving-")}
"""


def start(code: str, *arguments: object) -> subprocess.Popen:
    """Start a process without threads, which may fork."""
    code = textwrap.dedent(SAVE) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.promise(
    "Stopping anywhere",
    "Wherever a process is killed while it saves over a folder, the folder holds all the old files or all the new "
    "ones; discarded files are removed together with the old ones.",
)
@pytest.mark.parametrize(
    ("blocked", "step"), [(False, 3), *(pytest.param(blocked, 1, marks=pytest.mark.slow) for blocked in (False, True))]
)
def test_kill_at_any_operation_leaves_all_old_or_all_new_files(tmp_path, blocked, step):
    """
    Kill the process at the first operation that Python audits, the second, and so on, or only at every `step`-th one.
    With `blocked`, one of the new files cannot move in.
    """
    process = start(
        """
        seen = []
        old, new = {"a", "b", "sub/c", "old"}, {"a", "b", "sub/c"}
        for place in itertools.count(1, int(sys.argv[3])):
            folder = Path(sys.argv[1], str(place))
            save(folder, "old")
            if sys.argv[2] == "True":
                (folder / "sub/c").unlink()
                (folder / "sub/c").mkdir()
                old = {"a", "b", "old"}
            if not (child := os.fork()):
                operations = itertools.count(1)
                sys.addaudithook(lambda *_: next(operations) == place and os.kill(os.getpid(), signal.SIGKILL))
                try:
                    save(folder, "new")
                except OSError:
                    pass
                os._exit(0)
            _, status = os.waitpid(child, 0)
            found = listing(folder)
            assert old & new <= found.keys() <= old | new and set(found.values()) <= {"old", "new"}, found
            if place % 2:
                recover(folder)
            else:
                with staged_directory(folder):
                    pass
            assert not list(folder.rglob(".saving-*")), list(folder.rglob("*"))
            texts = set(listing(folder).values())
            assert len(texts) == 1 and listing(folder).keys() == (old if texts == {"old"} else new), listing(folder)
            seen += texts
            if not os.WIFSIGNALED(status):
                break
        print(seen.count("old"), seen.count("new"), seen == sorted(seen, reverse=True))
        """,
        tmp_path,
        blocked,
        step,
    )
    old, new, in_order = process.communicate(timeout=300)[0].split()
    assert process.returncode == 0 and in_order == "True"
    assert int(old) > 20 / step and (int(new) > 10 / step) != blocked


@pytest.mark.promise(
    "Stopping anywhere",
    "Unfinished files of a killed process are removed when the folder is next opened or written; those of a running "
    "process are never touched.",
)
@pytest.mark.parametrize("killed", [False, True])
def test_unfinished_files_stay_while_their_process_runs(tmp_path, killed):
    process = start(
        """
        with staged_directory(sys.argv[1]) as staged:
            (staged / "theirs").write_text("theirs")
            print("ready", flush=True)
            input()
        """,
        tmp_path,
    )
    assert process.stdout.readline() == "ready\n"
    recover(tmp_path)
    write_text(tmp_path / "mine", "mine")
    assert len(list(tmp_path.glob(".saving-*"))) == 1
    if killed:
        process.kill()
    process.communicate("go on\n")
    write_text(tmp_path / "mine", "mine")
    assert listing(tmp_path) == ({} if killed else {"theirs": "theirs"}) | {"mine": "mine"}


def test_many_threads_write_to_one_folder(tmp_path):
    def write(number: int) -> None:
        for turn in range(10):
            write_text(tmp_path / str(number), f"{number} {turn}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert listing(tmp_path) == {str(number): f"{number} 9" for number in range(8)}
    assert len(list(tmp_path.iterdir())) == 8


def test_writer_waits_for_readers(tmp_path):
    write_text(tmp_path / "file", "old")
    with ThreadPoolExecutor() as pool:
        with shared_lock(tmp_path), shared_lock(tmp_path, tmp_path.parent):
            writer = pool.submit(write_text, tmp_path / "file", "new")
            with pytest.raises(TimeoutError):
                writer.result(timeout=0.3)
            assert (tmp_path / "file").read_text() == "old"
        writer.result(timeout=10)
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.promise("Several processes", "Readers and writers wait for each other for a minute at most.")
def test_stopped_reader_does_not_block_writers_forever(tmp_path, monkeypatch):
    """Not even within one thread."""
    killed_write(tmp_path, {"file": "killed"})
    with shared_lock(tmp_path):
        recover(tmp_path)
        assert not (tmp_path / "file").exists()
        monkeypatch.setattr(locking, "_PATIENCE", 0.1)
        write_text(tmp_path / "other", "text")
    assert listing(tmp_path) == {"file": "killed", "other": "text"}


def killed_write(folder, files):
    """Leave what a process leaves that was killed before its files had moved."""
    (folder / ".saving-x" / "complete").mkdir(parents=True)
    for name, text in files.items():
        (folder / ".saving-x" / "complete" / name).write_text(text)


def test_files_of_simultaneous_writers_do_not_mix(tmp_path, monkeypatch):
    replace = os.replace

    def slowly(source, target):
        time.sleep(0.01)
        replace(source, target)

    def write(text: str) -> None:
        with staged_directory(tmp_path) as staged:
            for name in "abcd":
                (staged / name).write_text(text)

    monkeypatch.setattr(os, "replace", slowly)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "1234"))
    assert len(set(listing(tmp_path).values())) == 1 and len(listing(tmp_path)) == 4


def test_files_of_earlier_killed_writer_move_in_first(tmp_path):
    with staged_directory(tmp_path) as staged:
        (staged / "file").write_text("second")
        killed_write(tmp_path, {"file": "first", "other": "first"})
    assert listing(tmp_path) == {"file": "second", "other": "first"}


@pytest.mark.promise(
    "Stopping anywhere",
    "Ctrl-C or a disk error between two renames loses nothing: the other files are renamed the next time.",
)
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), None),
        (OSError(errno.ENOSPC, "No space left on device"), "could not save to .*No space .*No complete save is lost"),
    ],
)
def test_interrupted_renames_are_completed_later(tmp_path, monkeypatch, error, message):
    for name in ("a", "old"):
        (tmp_path / name).write_text("old")
    replace = os.replace

    def fail_at_second(source, target):
        if os.path.basename(target) == "b":
            raise error
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail_at_second)
        with pytest.raises(type(error), match=message), staged_directory(tmp_path) as staged:
            discard(staged / "old")
            for name in ("a", "b"):
                (staged / name).write_text("new")
    recover(tmp_path)
    assert listing(tmp_path) == {"a": "new", "b": "new"} and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("answer", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError()])
def test_file_system_without_locks_can_be_written(tmp_path, monkeypatch, answer):
    """Unfinished files of others stay, since their process may still run."""
    (tmp_path / ".saving-x" / "new").mkdir(parents=True)

    def refuse(*_, **__):
        raise answer

    monkeypatch.setattr(FileLock, "acquire", refuse)
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".saving-x", "file"]


@pytest.mark.slow
def test_full_disk_keeps_previous_checkpoint(tiny, tmp_path):
    """The system refuses to write more than a few kilobytes to a file, as a full disk does."""
    script = tmp_path / "save.py"
    script.write_text(
        textwrap.dedent(
            """
            import resource, shutil, signal, sys
            from pathlib import Path
            from hf_optical import OpticalModel, OpticalProcessor

            source, target = map(Path, sys.argv[1:])
            model, processor = OpticalModel.from_pretrained(source), OpticalProcessor.from_pretrained(source)
            shutil.copytree(source, target)
            files = lambda: {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
            before = files()
            model.encoder.get_input_embeddings().weight.data.add_(1)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
            for saved in (model, processor):
                try:
                    saved.save_pretrained(target)
                except OSError as error:
                    assert "could not save to" in str(error) and str(target) in str(error), error
                else:
                    raise AssertionError(f"{saved} fits into five kilobytes")
                assert files() == before
                assert not list(target.rglob(".saving*"))
            OpticalModel.from_pretrained(target), OpticalProcessor.from_pretrained(target)
            """
        )
    )
    subprocess.run([sys.executable, str(script), str(tiny), str(tmp_path / "target")], check=True, timeout=120)
