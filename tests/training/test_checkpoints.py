from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from tiny import tiny_checkpoint, weights
from transformers import TrainerCallback

from hf_optical import OpticalModel, OTDistillationTrainer
from hf_optical.storage.locking import run_lock
from hf_optical.training.checkpoints import (
    SaveOnInterrupt,
    checkpoint_to_resume,
    last_complete_checkpoint,
    pack_folders,
    read_weights,
)


SAVING = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}


@pytest.fixture
def run(make_trainer, tmp_path) -> Path:
    """A run of 6 steps with checkpoints 2, 4 and 6."""
    make_trainer(max_steps=6, **SAVING).train()
    return tmp_path / "run"


@pytest.mark.promise(
    "Stopping anywhere",
    "A checkpoint that is being written, written over or deleted is never resumed from.",
)
def test_half_written_checkpoints_are_passed_over(run):
    assert last_complete_checkpoint(run).endswith("checkpoint-6")
    state = run / "checkpoint-6" / "trainer_state.json"
    state.write_bytes(state.read_bytes()[:-20])
    assert last_complete_checkpoint(run).endswith("checkpoint-4")
    (run / "checkpoint-4" / "language_pack.json").unlink()
    assert last_complete_checkpoint(run).endswith("checkpoint-2")
    shutil.rmtree(run / "checkpoint-2")
    assert last_complete_checkpoint(run) is None
    assert last_complete_checkpoint(run / "nowhere") is None


@pytest.mark.promise(
    "Stopping anywhere",
    "Copies that somebody made of a checkpoint under another name are neither deleted nor resumed from.",
)
def test_copies_under_other_names_are_no_checkpoints(run, make_trainer):
    copies = ["checkpoint-backup-20240501", "checkpoint-before-2"]
    for name in copies:
        shutil.copytree(run / "checkpoint-2", run / name)
    assert last_complete_checkpoint(run).endswith("checkpoint-6")
    make_trainer(max_steps=8, **SAVING | {"save_total_limit": 1}).train(resume_from_checkpoint=True)
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-8", *copies]


@pytest.mark.promise(
    "Stopping anywhere",
    '`train(resume_from_checkpoint=True)` and `"last"` choose as the script does: the newest whole checkpoint.',
)
@pytest.mark.parametrize("newest", [True, "last"])
def test_the_trainer_itself_passes_over_half_written_checkpoints(run, make_trainer, newest):
    (run / "checkpoint-6" / "trainer_state.json").unlink()
    trainer = make_trainer(max_steps=5)
    trainer.train(resume_from_checkpoint=newest)
    assert [log["step"] for log in trainer.state.log_history if "loss" in log] == [1, 2, 3, 4, 5]
    with pytest.raises(FileNotFoundError, match="is no whole checkpoint"):
        trainer.train(resume_from_checkpoint=str(run / "checkpoint-6"))


@pytest.mark.promise("Stopping anywhere", "A run that had ended trains no further when it is resumed.")
@pytest.mark.parametrize("settings", [{"max_steps": 3}, {"num_train_epochs": 0.5}])
def test_a_run_that_has_ended_trains_no_further(make_trainer, tmp_path, settings):
    settings = {**settings, **SAVING, "lr_scheduler_type": "constant"}
    ended, resumed = make_trainer(**settings), make_trainer(**settings)
    ended.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert ended.state.global_step == resumed.state.global_step == 3
    assert all(torch.equal(weight, weights(resumed.model)[name]) for name, weight in weights(ended.model).items())


@pytest.mark.promise(
    "Stopping anywhere",
    "A checkpoint without optimizer or schedule, and an adapter of another scale, are refused and not gone on from.",
)
def test_a_checkpoint_without_its_state_is_refused(make_trainer, tmp_path):
    """Trainer would begin anew with optimizer and schedule, and say nothing."""
    make_trainer(max_steps=2, save_only_model=True, **SAVING).train()
    run = tmp_path / "run"
    for given in ("last", str(run / "checkpoint-2")):
        with pytest.raises(ValueError, match="no state of the optimizer and the scheduler.*save_only_model at False"):
            checkpoint_to_resume(run, given)
    (run / "checkpoint-2" / "scheduler.pt").touch()
    with pytest.raises(ValueError, match="no state of the optimizer, so"):
        checkpoint_to_resume(run, "last")
    # As FSDP and DeepSpeed write it.
    (run / "checkpoint-2" / "optimizer_0").mkdir()
    assert checkpoint_to_resume(run, "last")
    shutil.rmtree(run / "checkpoint-2" / "optimizer_0")
    (run / "checkpoint-2" / "scheduler.pt").unlink()
    (run / "checkpoint-2" / "global_step2").mkdir()
    assert checkpoint_to_resume(run, "last")


def test_an_adapter_of_another_scale_is_refused(run, make_trainer):
    with pytest.raises(ValueError, match="trained with lora_alpha=32, and this run has lora_alpha=4; go on with"):
        make_trainer(lora_alpha=4).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="trained with r=32, lora_alpha=32, and this run has r=8, lora_alpha=8"):
        read_weights(make_trainer(lora_rank=8).model, run / "checkpoint-2")


@pytest.mark.promise(
    "Stopping anywhere",
    "While a run is at work, another one is refused in its `output_dir`; a run that was killed bars nothing.",
)
def test_two_runs_in_one_folder_are_refused(make_trainer, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    trainer = make_trainer(max_steps=1)
    with run_lock(run), pytest.raises(FileExistsError, match=f"output_dir {run} is in use by another run; wait"):
        trainer.train()
    # What a killed run leaves is in nobody's way.
    (run / ".run.lock").touch()
    trainer.train()
    assert list(run.iterdir()) == []

    def no_locks(*args, **kwargs):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("hf_optical.storage.locking.FileLock.acquire", no_locks)
    with run_lock(run):
        trainer.train()


class StopsHalfway(OTDistillationTrainer):
    """Goes no further than the optimizer's state when it saves a checkpoint."""

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        raise KeyboardInterrupt


def test_a_whole_checkpoint_that_is_written_over_is_not_whole_meanwhile(run, make_trainer):
    shutil.rmtree(run / "checkpoint-6")
    with pytest.raises(KeyboardInterrupt):
        make_trainer(StopsHalfway, max_steps=6, **SAVING).train(resume_from_checkpoint=str(run / "checkpoint-2"))
    assert last_complete_checkpoint(run).endswith("checkpoint-2")


@pytest.mark.promise(
    "Stopping anywhere",
    "`save_total_limit` keeps the newest checkpoint and the best one whatever the clock says, and deletes "
    "an old one only when the new one is on the disk.",
)
def test_the_newest_checkpoints_are_kept_whatever_the_clock_says(run, make_trainer):
    """The clock was put back; and a checkpoint that is not whole is the first to go."""
    for step in (2, 4, 6):
        later = time.time() + 1000 * (10 - step)
        os.utime(run / f"checkpoint-{step}", (later, later))
    (run / "checkpoint-6" / "trainer_state.json").unlink()
    settings = {"max_steps": 8, **SAVING, "save_total_limit": 2}
    make_trainer(**settings).train(resume_from_checkpoint=last_complete_checkpoint(run))
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-8"]
    (run / "checkpoint-7").mkdir()
    make_trainer(**{**settings, "max_steps": 10}).train(resume_from_checkpoint=str(run / "checkpoint-8"))
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-8"]


def test_a_checkpoint_that_is_half_deleted_is_not_whole(make_trainer, tmp_path, monkeypatch):
    rmtree = shutil.rmtree

    def give_up(folder, **options):
        if Path(folder).name.startswith("checkpoint-"):
            raise KeyboardInterrupt
        rmtree(folder, **options)

    settings = {"max_steps": 6, **SAVING, "save_total_limit": 1}
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", give_up)
        with pytest.raises(KeyboardInterrupt):
            make_trainer(**settings).train()
    assert last_complete_checkpoint(tmp_path / "run").endswith("checkpoint-4")
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    assert (tmp_path / "run" / "checkpoint-2" / "optimizer.pt").exists()
    assert last_complete_checkpoint(tmp_path / "run") is None


@pytest.mark.promise("Stopping anywhere", "Metrics and the state of a run are written in one step.")
def test_metrics_and_state_are_written_in_one_step(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.save_metrics("train", {"a": 1.0, "b": 2.0})
    trainer.save_state()
    with pytest.raises(TypeError, match="not JSON serializable"):
        trainer.save_metrics("eval", {"a": 2.0, "c": object()})
    assert not (tmp_path / "run" / "eval_results.json").exists()
    trainer.state.log_history = [object()]
    with pytest.raises(TypeError, match="not JSON serializable"):
        trainer.save_state()
    trainer.save_metrics("eval", {"c": 3.0}, combined=False)
    found = {path.name: json.loads(path.read_text()) for path in (tmp_path / "run").iterdir()}
    assert found.pop("trainer_state.json")["log_history"] == []
    everything = {"a": 1.0, "b": 2.0}
    assert found == {"all_results.json": everything, "train_results.json": everything, "eval_results.json": {"c": 3.0}}


def test_a_folder_that_holds_another_run_is_refused(run, tmp_path):
    with pytest.raises(FileExistsError, match=r"holds another run \(checkpoint-2.*--resume_from_checkpoint last"):
        checkpoint_to_resume(run, None)
    assert checkpoint_to_resume(tmp_path / "new", None) is None
    assert checkpoint_to_resume(run, "last").endswith("checkpoint-6")
    assert checkpoint_to_resume(run, True).endswith("checkpoint-6")
    assert checkpoint_to_resume(run, str(run / "checkpoint-2")).endswith("checkpoint-2")
    with pytest.raises(FileNotFoundError, match="is no whole checkpoint"):
        checkpoint_to_resume(run, str(run / "checkpoint-3"))
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="is a file"):
        checkpoint_to_resume(tmp_path / "file", None)


def test_nothing_to_resume_starts_from_the_beginning(tmp_path, caplog):
    assert checkpoint_to_resume(tmp_path, "last") is None
    assert "starts from the beginning" in caplog.text


def test_a_checkpoint_of_another_language_or_base_is_refused(run, make_trainer, tmp_path):
    with pytest.raises(ValueError, match="checkpoint for sw, and this run trains ha"):
        other = make_trainer(language="ha", new_words=0, train_dataset=None, eval_dataset=None)
        read_weights(other.model, run / "checkpoint-2")
    other = tiny_checkpoint(tmp_path / "other", seed=5)
    with pytest.raises(ValueError, match=f"was trained on .*, and the student is {other}"):
        read_weights(make_trainer(student=other).model, run / "checkpoint-2")


def test_a_checkpoint_of_several_packs(make_two, make_trainer, tmp_path):
    make_two(max_steps=4, **SAVING).train()
    run = tmp_path / "run"
    last = run / "checkpoint-4"
    assert last_complete_checkpoint(run) == str(last)
    assert [path.name for path in pack_folders(last)] == ["lo", "sw"] and pack_folders(run) == []
    with pytest.raises(ValueError, match="checkpoint for lo, sw, and this run trains sw;"):
        read_weights(make_trainer().model, last)
    (last / "lo" / "language_pack.json").unlink()
    assert last_complete_checkpoint(run).endswith("checkpoint-2")
    with pytest.raises(ValueError, match="checkpoint for sw, and this run trains sw, lo;"):
        read_weights(make_two().model, last)


def test_a_folder_that_holds_several_packs_is_refused(make_two, tmp_path):
    make_two().save_model()
    with pytest.raises(FileExistsError, match=r"holds another run \(lo, sw\)"):
        checkpoint_to_resume(tmp_path / "run", None)


def test_weights_of_a_whole_model_are_read(make_trainer, tmp_path):
    trainer = make_trainer(train_all_weights=True, max_steps=2)
    trainer.train()
    trainer.save_model(tmp_path / "whole")
    fresh = make_trainer(train_all_weights=True).model
    read_weights(fresh, tmp_path / "whole")
    assert all(torch.equal(weight, weights(fresh)[name]) for name, weight in weights(trainer.model).items())


class Interrupt(TrainerCallback):
    """A user who presses Ctrl-C in the middle of a step."""

    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_and_resumes_to_the_same_weights(make_trainer, tmp_path, number):
    settings = {"max_steps": 6, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    straight = make_trainer(output_dir=str(tmp_path / "straight"), **settings)
    straight.train()
    stopped = make_trainer(callbacks=[Interrupt(3, number)], **settings)
    with pytest.raises(KeyboardInterrupt, match="resume_from_checkpoint"):
        stopped.train()
    assert stopped.state.global_step == 4
    checkpoint = last_complete_checkpoint(tmp_path / "run")
    assert checkpoint.endswith("checkpoint-4")
    resumed = make_trainer(**settings)
    resumed.train(resume_from_checkpoint=checkpoint)
    for name, weight in weights(straight.model).items():
        assert torch.equal(weights(resumed.model)[name], weight), name


class InterruptAt(TrainerCallback):
    """A user who presses Ctrl-C at an event of a step."""

    def __init__(self, event: str, step: int):
        self.step = step
        setattr(self, event, self._press)

    def _press(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("event", ["on_pre_optimizer_step", "on_evaluate", "on_train_end"])
def test_where_training_has_ended_an_interrupt_cuts_nothing_off(make_trainer, tmp_path, event, caplog):
    last = 5 if event == "on_pre_optimizer_step" else 6
    trainer = make_trainer(callbacks=[InterruptAt(event, last)], eval_strategy="epoch")
    assert trainer.train().global_step == 6
    assert "come to its end" in caplog.text and last_complete_checkpoint(tmp_path / "run") is None


class EverWorse(OTDistillationTrainer):
    """Every evaluation is worse than the one before, so the first is the best."""

    def _evaluate(self, *args, **kwargs):
        return super()._evaluate(*args, **kwargs) | {"eval_worse": float(self.state.global_step)}


@pytest.mark.promise(
    "Stopping anywhere",
    "Ctrl-C and SIGTERM finish the step and save a checkpoint whatever is saved else (`save_strategy` "
    '"no" and "best", `save_only_model`); where training has ended, they cut nothing off. The resumed run '
    "evaluates at the steps of one that was never stopped, to the same weights.",
)
@pytest.mark.parametrize(
    "settings",
    [
        {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "worse"},
        {"save_strategy": "no", "eval_strategy": "steps", "eval_steps": 1},
        {"save_strategy": "steps", "save_steps": 1, "save_only_model": True},
    ],
)
def test_what_is_announced_is_saved_whatever_else_is(make_trainer, tmp_path, settings):
    settings = {"greater_is_better": False, **settings}
    trainer = make_trainer(EverWorse, callbacks=[InterruptAt("on_step_begin", 2)], **settings)
    with pytest.raises(KeyboardInterrupt, match="after saving"):
        trainer.train()
    assert checkpoint_to_resume(tmp_path / "run", "last").endswith("checkpoint-3")


@pytest.mark.parametrize(("step", "saving"), [(3, "epoch"), (6, "no"), (12, "epoch")])
def test_an_interrupted_run_evaluates_at_the_same_steps(make_trainer, tmp_path, step, saving):
    """Also if it was interrupted in the last step of an epoch, or in that by which it ends."""

    def make(name: str, *callbacks: TrainerCallback) -> OTDistillationTrainer:
        return make_trainer(
            output_dir=str(tmp_path / name),
            callbacks=callbacks,
            **{"num_train_epochs": 2, "eval_strategy": "epoch", "save_strategy": saving, "save_total_limit": None},
            **{"metric_for_best_model": "loss", "load_best_model_at_end": saving == "epoch"},
        )

    def course(trainer: OTDistillationTrainer) -> tuple:
        state = trainer.state
        evaluated = [(log["step"], log["eval_loss"]) for log in state.log_history if "eval_loss" in log]
        return state.global_step, state.best_metric, evaluated

    straight = make("straight")
    straight.train()
    trainer = make("run", InterruptAt("on_step_begin", step - 1))
    if step < 12:
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        assert trainer.state.global_step == step
        trainer = make("run")
    trainer.train(resume_from_checkpoint=step < 12)
    assert course(trainer) == course(straight)
    assert all(torch.equal(weight, weights(trainer.model)[name]) for name, weight in weights(straight.model).items())


@pytest.fixture
def interruptible():
    """Started in the background, as by a CI runner, a process is deaf to Ctrl-C, and so would be this test."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_interrupt_stops_at_once_and_handlers_come_back(interruptible):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as stopped, SaveOnInterrupt():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal must end the block")
    assert "checkpoint" not in str(stopped.value)
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_after_ctrl_c_does_not_cut_the_saving_short():
    with pytest.raises(KeyboardInterrupt, match="after saving a checkpoint"), SaveOnInterrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        interrupt.stopped = True


def test_an_error_in_training_is_not_covered_up():
    with pytest.raises(ZeroDivisionError), SaveOnInterrupt():
        os.kill(os.getpid(), signal.SIGINT)
        1 / 0  # noqa: B018


def test_outside_the_main_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with SaveOnInterrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_full_disk_leaves_the_last_checkpoint_whole(run_python, tmp_path, tiny, teacher_folder):
    """Files may not grow past 40 kB from step 3 on: what is saved then fails, and checkpoint 2 resumes."""
    result = run_python(
        f"""
        import resource, signal
        from hf_optical import *
        from transformers import TrainerCallback

        class FillDisk(TrainerCallback):
            def on_step_begin(self, args, state, control, **kwargs):
                if state.global_step == 2:
                    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))

        args = OTDistillationConfig(output_dir={str(tmp_path / "full")!r}, language="sw", max_steps=4, use_cpu=True,
            eval_strategy="no", save_strategy="steps", save_steps=2, disable_tqdm=True)
        pairs = load_bitext("examples/data/train.jsonl", "sw").select(range(64))
        OTDistillationTrainer({str(tiny)!r}, {str(teacher_folder)!r}, args, pairs, callbacks=[FillDisk()]).train()
        """
    )
    assert result.returncode != 0
    assert "could not save to" in result.stderr and "No complete save is lost" in result.stderr, result.stderr
    checkpoint = last_complete_checkpoint(tmp_path / "full")
    assert checkpoint.endswith("checkpoint-2")
    model = OpticalModel.from_pretrained(tiny)
    from hf_optical import LanguagePack

    LanguagePack.from_pretrained(checkpoint).attach(model)
