from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import DEMO, REPOSITORY

from hf_optical.studies import Store, Study, load_records
from hf_optical.studies.plan import TestCell, TrainingCell
from hf_optical.studies.runner import Durations, duration
from hf_optical.studies.workbench import Workbench


def log_of(folder: Path) -> list[str]:
    """Lines of a log without times."""
    lines = (folder / "study.log").read_text(encoding="utf-8").splitlines()
    return [re.sub(r"^\S+ \S+ [\d.]+ s ", "", line) for line in lines]


def start(study_file: Path, output_dir: Path, cells: Path) -> subprocess.Popen:
    """Run the study in another process."""
    code = """
import sys
from hf_optical.studies import Store, Study, load_study
study = Study(load_study(sys.argv[1]), Store(sys.argv[3]))
print(study.run(sys.argv[2], show_progress=False))
"""
    return subprocess.Popen(
        [sys.executable, "-c", code, str(study_file), str(output_dir), str(cells)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_finished_cells_do_not_run_again_and_studies_share_them(run, load, store, tmp_path):
    first = run(measures=["AP"])
    assert len(log_of(tmp_path / "out")) == 4 and first.todo() == []
    again = Study(load(measures=["AP"]), store)
    assert again.todo() == [] and "4 cells, 0 to do" in again.describe()
    assert again.run(tmp_path / "out", show_progress=False) == [] and len(log_of(tmp_path / "out")) == 4
    assert again.records() == first.records() == load_records(load(measures=["AP"]), store)
    # Another study trains only what is new.
    methods = {"OT": {"kind": "trained"}, "words": {"kind": "lexicon"}}
    both = run(name="another", methods=methods, title="Another", measures=["AP"])
    lines = log_of(tmp_path / "out")
    assert len(lines) == 5 and "test words" in lines[4]
    (mine,), theirs = ([r for r in study.records() if r.method == "OT"] for study in (first, both))
    assert theirs == [mine]
    # New measures do not train again.
    study = run(measures=["AP", "P@1"])
    lines = log_of(tmp_path / "out")
    assert len(lines) == 8 and all(line.startswith("test") for line in lines[5:])
    assert {frozenset(record.values) for record in study.records()} == {frozenset({"AP", "P@1"})}
    assert len(run(measures=["P@1"]).todo()) == 0 and len(log_of(tmp_path / "out")) == 8


def test_failed_cells_do_not_stop_the_others(load, store, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(DEMO / "retrieval", folder)
    (folder / "queries.jsonl").write_text("no JSON\n", encoding="utf-8")
    some = {"queries": 5, "pool": 30}
    tests = {"broken": {"sw": {"folder": str(folder), **some}}, "whole": {"sw": {"folder": "retrieval", **some}}}
    changes = {"tests": tests, "methods": ["zero_shot", "ceiling"]}
    study = Study(load(**changes), store)
    failures = study.run(tmp_path / "out", show_progress=False)
    assert [failure.cell for failure in failures] == [f"test {what} on broken sw" for what in changes["methods"]]
    assert "queries.jsonl, line 1" in failures[0].error
    assert [record.test for record in study.records()] == ["whole"] * 2
    text = (tmp_path / "out" / "study.log").read_text(encoding="utf-8")
    assert text.count("FAILED") == 2 and "Traceback" not in text
    # After the repair, the same command continues.
    shutil.copytree(DEMO / "retrieval", folder, dirs_exist_ok=True)
    study = Study(load(**changes), store)
    assert study.run(tmp_path / "out", show_progress=False) == [] and len(study.records()) == 4


def test_failed_training_is_reported_once(load, store, tmp_path):
    methods = {"OT": {"kind": "trained", "learning_rate": 1e30}, "before": {"kind": "zero_shot"}}
    study = Study(load(methods=methods, training={"max_steps": 5, "use_cpu": True, "warmup_steps": 0}), store)
    (failure,) = study.run(tmp_path / "out", show_progress=False)
    assert failure.cell.startswith("train OT") and "FloatingPointError: the loss is not finite" in failure.error
    text = (tmp_path / "out" / "study.log").read_text(encoding="utf-8")
    assert "Traceback" in text and "SKIPPED test OT" in text
    assert [record.method for record in study.records()] == ["before"]


@pytest.mark.slow  # tests/reliability kills a study in every run
def test_killed_run_resumes(load, store, tmp_path):
    load(sizes=[20, 30, 40, 50])
    process = start(tmp_path / "study.yaml", tmp_path / "killed", store.folder)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any("train" in line for line in _lines(tmp_path / "killed")):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    done = {path: path.stat().st_mtime_ns for path in store.folder.glob("*/*.json")}
    assert 2 <= len(done) < 10
    study = Study(load(sizes=[20, 30, 40, 50]), store)
    assert len(study.todo()) == 10 - len(done)
    assert study.run(tmp_path / "resumed", show_progress=False) == []
    assert {path: path.stat().st_mtime_ns for path in done} == done

    whole = Study(load(sizes=[20, 30, 40, 50]), Store(tmp_path / "whole"))
    assert whole.run(tmp_path / "out", show_progress=False) == []
    assert [record.values for record in study.records()] == [record.values for record in whole.records()]


def _lines(folder: Path) -> list[str]:
    return log_of(folder) if (folder / "study.log").is_file() else []


@pytest.mark.slow
def test_two_processes_share_the_work(load, store, tmp_path):
    study = Study(load(sizes=[20, 30, 40]), store)
    processes = [start(tmp_path / "study.yaml", tmp_path / name, store.folder) for name in ("one", "two")]
    for process in processes:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0 and output.strip().endswith("[]"), output
    lines = [line for name in ("one", "two") for line in log_of(tmp_path / name)]
    assert len(lines) == len(set(lines)) == 8, lines
    assert study.todo() == [] and len(study.records()) == 5


def test_interrupted_cell_runs_next_time(load, store, tmp_path, monkeypatch):
    study = Study(load(methods=["zero_shot", "ceiling"]), store)
    evaluate = Workbench.evaluate

    def stop(bench, cell):
        if cell.method.name == "ceiling":
            raise KeyboardInterrupt
        return evaluate(bench, cell)

    monkeypatch.setattr(Workbench, "evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        study.run(tmp_path / "out", show_progress=False)
    monkeypatch.undo()
    assert [str(cell) for cell in study.todo()] == ["test ceiling on questions sw"]
    assert study.run(tmp_path / "out", show_progress=False) == [] and len(study.records()) == 2


def test_time_estimates_are_proportional_to_work(load, store):
    study = Study(load(sizes=[100, 400], training={"num_train_epochs": 2, "use_cpu": True}), store)
    small, large = (cell for cell in study.cells if isinstance(cell, TrainingCell))
    asked = next(cell for cell in study.cells if isinstance(cell, TestCell))
    assert (small.work, large.work) == (200, 800)
    durations = Durations(study.cells, store)
    assert durations.estimate(large) is None and durations.left([small, large]) == "time unknown"
    durations.add(small.group, 10.0, small.work)
    assert durations.estimate(large) == pytest.approx(40.0)
    assert durations.left([small, large]) == "about 50 s" and durations.left([large, asked]) == "more than 40 s"
    store.write(small.key, {"group": small.group, "work": small.work, "seconds": 20.0})
    assert Durations(study.cells, store).estimate(large) == pytest.approx(80.0)
    # Unknown training methods take as long as the others.
    greedy = Study(load(methods={"g": {"method": "greedy"}}, sizes=[100], training={"num_train_epochs": 2}), store)
    assert durations.estimate(greedy.cells[0]) == pytest.approx(10.0)


def test_rankings_with_alike_names_have_their_own_files(load, store, tmp_path):
    methods = {"C#": {"kind": "zero_shot"}, "C/": {"kind": "ceiling"}, "c ": {"kind": "late_interaction"}}
    study = Study(load(methods=methods, keep_runs=True), store)
    for number, cell in enumerate(study.cells):
        if number != 1:
            file = store.run_file(cell.key)
            file.parent.mkdir(exist_ok=True, parents=True)
            file.write_text(cell.method.name)
    study.write_runs(tmp_path / "runs")
    found = {file.name: file.read_text() for file in (tmp_path / "runs").iterdir()}
    # The number of a name does not depend on which cells are finished.
    assert found == {"C-on-questions-sw.trec.gz": "C#", "c-on-questions-sw-3.trec.gz": "c "}


def test_durations_are_readable():
    said = {0: "0 s", 89: "89 s", 100: "2 min", 5000: "83 min", 9000: "2.5 h"}
    assert {seconds: duration(seconds) for seconds in said} == said
