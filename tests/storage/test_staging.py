from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor, TimeoutError
from unittest.mock import Mock

import pytest
from filelock import FileLock

from hf_optical.storage import staging as files
from hf_optical.storage.staging import discard, flush, reading, settle, staged_directory, write_text


def listing(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_is_written_arrives_and_nothing_else_changes(tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    (tmp_path / "old.txt").write_text("old")
    with staged_directory(tmp_path) as staged:
        (staged / "old.txt").write_text("new")
        (staged / "sub").mkdir()
        (staged / "sub" / "deep.txt").write_text("deep")
        assert (tmp_path / "old.txt").read_text() == "old"
    assert listing(tmp_path) == {"kept.txt": "kept", "old.txt": "new", "sub/deep.txt": "deep"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.txt", "old.txt", "sub"]


def test_missing_folders_are_made(tmp_path):
    with staged_directory(tmp_path / "a" / "b") as staged:
        (staged / "file").write_text("text")
    assert listing(tmp_path) == {"a/b/file": "text"}


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_files_and_keeps_its_type(tmp_path, error):
    (tmp_path / "file").write_text("old")
    with pytest.raises(type(error)), staged_directory(tmp_path) as staged:
        (staged / "file").write_text("half")
        raise error
    assert listing(tmp_path) == {"file": "old"}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), Exception("I/O error: No space left on device (os error 28)")]
)
def test_a_full_disk_is_named_whoever_reports_it(tmp_path, error):
    with pytest.raises(OSError, match="could not save to .*No space left on device.*unharmed; free some") as caught:
        with staged_directory(tmp_path):
            raise error
    assert caught.value.errno == 28
    assert str(tmp_path) in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("folder", ["file", "file/sub"])
def test_a_file_in_place_of_the_folder(tmp_path, folder):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match=f"cannot write to .*{folder} .*choose another folder"):
        with staged_directory(tmp_path / folder):
            pass
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match="cannot write to .*Permission denied"), staged_directory(tmp_path):
            pass
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.promise("Safety", "What is saved is as open to others as any file that the process makes, by its umask.")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600), (0o002, 0o664)])
def test_files_are_as_open_as_any_that_the_process_makes(tmp_path, umask, mode):
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


def test_what_is_discarded_goes_with_what_moves_in(tmp_path):
    for name in ("kept", "gone", "sub/gone", "folder/gone", "again"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    with pytest.raises(ValueError), staged_directory(tmp_path) as staged:
        discard(staged / "gone")
        raise ValueError
    assert (tmp_path / "gone").exists()
    with staged_directory(tmp_path) as staged:
        (staged / "gone").write_text("written, and thought better of")
        for name in ("gone", "sub/gone", "folder", "again", "never there"):
            discard(staged / name)
        (staged / "again").write_text("new")
        assert (tmp_path / "gone").exists()
    assert listing(tmp_path) == {"kept": "old", "again": "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "kept", "sub"]


def test_a_block_in_a_block_moves_in_with_it(tmp_path):
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
    "If one of the new files cannot be moved in, the old ones are put back; after a kill meanwhile, the next time.",
)
@pytest.mark.parametrize("hard_links", [True, False])
def test_what_cannot_be_moved_in_leaves_all_as_it_was(tmp_path, monkeypatch, hard_links):
    """A folder stands where the last of the files is to go."""
    for name in ("a", "sub/b", "gone"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    (tmp_path / "z" / "mine").mkdir(parents=True)
    if not hard_links:
        monkeypatch.setattr(os, "link", Mock(side_effect=OSError(errno.EPERM, "Operation not permitted")))
    with pytest.raises(OSError, match="could not save to .*z is a folder.*unharmed; choose another folder"):
        with staged_directory(tmp_path) as staged:
            for name in ("a", "new", "sub/b", "z"):
                (staged / name).parent.mkdir(exist_ok=True)
                (staged / name).write_text("new")
            discard(staged / "gone")
    assert listing(tmp_path) == {"a": "old", "sub/b": "old", "gone": "old"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "gone", "sub", "z"]


def test_names_that_vanish_meanwhile_are_no_error(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).touch()
    fsync = os.fsync

    def vanish(descriptor):
        for name in ("a", "b"):
            (tmp_path / name).unlink(missing_ok=True)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", vanish)
    flush(tmp_path, deep=True)


def test_write_text_replaces_in_one_step(tmp_path):
    (tmp_path / "old").write_text("old")
    with open(tmp_path / "old") as reader:
        write_text(tmp_path / "old", "neu – 新")
        # Who had the old text open still reads it: it was renamed over, not written over.
        assert reader.read() == "old"
    assert (tmp_path / "old").read_text(encoding="utf-8") == "neu – 新"


SAVE = """
    import itertools, os, signal, sys
    from pathlib import Path
    from hf_optical.storage.staging import discard, settle, staged_directory

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
    """A process of its own that has imported nothing else, so that it may fork."""
    code = textwrap.dedent(SAVE) + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.promise(
    "Stopping anywhere",
    "A folder that is written over holds all the old files or all the new ones, wherever the process is "
    "killed; what does not belong to the new ones goes with the old.",
)
@pytest.mark.parametrize("blocked", [False, True])
def test_killed_at_every_single_operation_it_is_the_old_or_the_new(tmp_path, blocked):
    """
    Python tells of each file that it opens, renames or removes: at the first, the second... it is killed. Blocked, one
    of the new files cannot be moved in, and the others go back.
    """
    process = start(
        """
        seen = []
        old, new = {"a", "b", "sub/c", "old"}, {"a", "b", "sub/c"}
        for place in itertools.count(1):
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
                settle(folder)
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
    )
    old, new, in_order = process.communicate(timeout=300)[0].split()
    assert process.returncode == 0 and int(old) > 20 and (int(new) > 10) != blocked and in_order == "True"


@pytest.mark.promise(
    "Stopping anywhere",
    "What a killed process left is removed by whoever opens or writes the folder next; what a living one "
    "is writing is never touched.",
)
@pytest.mark.parametrize("killed", [False, True])
def test_what_a_living_process_is_writing_is_left_alone(tmp_path, killed):
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
    settle(tmp_path)
    write_text(tmp_path / "mine", "mine")
    assert len(list(tmp_path.glob(".saving-*"))) == 1
    if killed:
        process.kill()
    process.communicate("go on\n")
    write_text(tmp_path / "mine", "mine")
    assert listing(tmp_path) == ({} if killed else {"theirs": "theirs"}) | {"mine": "mine"}


def test_many_writers_in_one_folder(tmp_path):
    def write(number: int) -> None:
        for turn in range(10):
            write_text(tmp_path / str(number), f"{number} {turn}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert listing(tmp_path) == {str(number): f"{number} 9" for number in range(8)}
    assert len(list(tmp_path.iterdir())) == 8


def test_who_reads_has_nothing_moved_in_meanwhile(tmp_path):
    write_text(tmp_path / "file", "old")
    with ThreadPoolExecutor() as pool:
        with reading(tmp_path), reading(tmp_path, tmp_path.parent):
            writer = pool.submit(write_text, tmp_path / "file", "new")
            with pytest.raises(TimeoutError):
                writer.result(timeout=0.3)
            assert (tmp_path / "file").read_text() == "old"
        writer.result(timeout=10)
    assert (tmp_path / "file").read_text() == "new"


@pytest.mark.promise("Several processes", "Nobody waits for a lock for more than a minute.")
def test_who_is_stopped_while_reading_stops_nobody_for_ever(tmp_path, monkeypatch):
    """In the thread that reads too."""
    (tmp_path / ".saving-x" / "whole").mkdir(parents=True)
    (tmp_path / ".saving-x" / "whole" / "file").write_text("killed")
    with reading(tmp_path):
        settle(tmp_path)
        assert not (tmp_path / "file").exists()
        monkeypatch.setattr(files, "_PATIENCE", 0.1)
        write_text(tmp_path / "other", "text")
    assert listing(tmp_path) == {"file": "killed", "other": "text"}


def test_of_two_writers_at_once_one_comes_second(tmp_path, monkeypatch):
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


def test_who_writes_first_ends_what_another_left_half_way(tmp_path):
    """It was killed behind the back of one that had begun."""
    with staged_directory(tmp_path) as staged:
        (staged / "file").write_text("second")
        (tmp_path / ".saving-x" / "whole").mkdir(parents=True)
        for name in ("file", "other"):
            (tmp_path / ".saving-x" / "whole" / name).write_text("first")
    assert listing(tmp_path) == {"file": "second", "other": "first"}


@pytest.mark.promise(
    "Stopping anywhere",
    "Ctrl-C between two renames loses nothing: the rest is renamed the next time.",
)
def test_ctrl_c_between_two_renames_is_made_up_for(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    replace = os.replace

    def interrupted(source, target):
        if os.path.basename(target) == "b":
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt), staged_directory(tmp_path) as staged:
            for name in ("a", "b"):
                (staged / name).write_text("new")
    settle(tmp_path)
    assert listing(tmp_path) == {"a": "new", "b": "new"} and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("answer", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError()])
def test_where_the_file_system_has_no_locks(tmp_path, monkeypatch, answer):
    """What it writes arrives; what others began is left alone, since they may be at it still."""
    (tmp_path / ".saving-x" / "new").mkdir(parents=True)

    def refuse(*_, **__):
        raise answer

    monkeypatch.setattr(FileLock, "acquire", refuse)
    write_text(tmp_path / "file", "text")
    assert (tmp_path / "file").read_text() == "text"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".saving-x", "file"]


def test_a_disk_that_fills_up_keeps_the_previous_checkpoint_whole(tiny, tmp_path):
    """The operating system refuses to write more than a few kilobytes a file, as a full disk does."""
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
