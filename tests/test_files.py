from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap

import pytest

from hf_optical.files import staged_directory, write_text


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


@pytest.mark.parametrize(("folder_mode", "file_mode"), [(0o755, 0o644), (0o750, 0o640), (0o700, 0o600)])
def test_whoever_may_read_the_folder_may_read_its_files(tmp_path, folder_mode, file_mode):
    tmp_path.chmod(folder_mode)
    with staged_directory(tmp_path) as staged:
        (staged / "file").write_text("text")
        (staged / "file").chmod(0o600)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == file_mode


def test_write_text_replaces_in_one_step(tmp_path):
    (tmp_path / "old").write_text("old")
    with open(tmp_path / "old") as reader:
        write_text(tmp_path / "old", "neu – 新")
        # Who had the old text open still reads it: it was renamed over, not written over.
        assert reader.read() == "old"
    assert (tmp_path / "old").read_text(encoding="utf-8") == "neu – 新"


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
