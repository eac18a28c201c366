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
from training.conftest import in_lao, trainer_maker
from transformers import TrainerCallback

from hf_optical import OpticalRetriever, OTDistillationTrainer
from hf_optical.storage.locking import run_lock
from hf_optical.training.checkpoints import (
    SaveOnInterrupt,
    checkpoint_to_resume,
    last_complete_checkpoint,
    pack_folders,
    read_weights,
)


SAVING = {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}


@pytest.fixture(scope="module")
def whole_run(tiny, teacher_folder, pairs, held_out, tmp_path_factory) -> Path:
    """A run of 6 steps with checkpoints 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    trainer_maker(folder, tiny, teacher_folder, pairs, held_out)(max_steps=6, **SAVING).train()
    return folder


@pytest.fixture
def run(whole_run, tmp_path) -> Path:
    """A copy of it."""
    return shutil.copytree(whole_run, tmp_path / "run")


@pytest.mark.promise(
    "Stopping anywhere",
    "A run never resumes from a checkpoint that is partly written, overwritten or deleted.",
)
def test_incomplete_checkpoints_are_skipped(run):
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
    "Copies of a checkpoint under another name are neither deleted nor resumed from.",
)
def test_copies_under_other_names_are_ignored(run, make_trainer):
    copies = ["checkpoint-backup-20240501", "checkpoint-before-2"]
    for name in copies:
        shutil.copytree(run / "checkpoint-2", run / name)
    assert last_complete_checkpoint(run).endswith("checkpoint-6")
    make_trainer(max_steps=8, **SAVING | {"save_total_limit": 1}).train(resume_from_checkpoint=True)
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-8", *copies]


@pytest.mark.promise(
    "Stopping anywhere",
    '`train(resume_from_checkpoint=True)` and `"last"` resume from the newest complete checkpoint.',
)
def test_trainer_resumes_from_the_newest_complete_checkpoint(run, make_trainer):
    (run / "checkpoint-6" / "trainer_state.json").unlink()
    assert checkpoint_to_resume(run, "last").endswith("checkpoint-4")
    trainer = make_trainer(max_steps=5)
    trainer.train(resume_from_checkpoint=True)
    assert [log["step"] for log in trainer.state.log_history if "loss" in log] == [1, 2, 3, 4, 5]
    with pytest.raises(FileNotFoundError, match="is not a complete checkpoint"):
        trainer.train(resume_from_checkpoint=str(run / "checkpoint-6"))


@pytest.mark.promise("Stopping anywhere", "A run resumes at the learning rate of the settings.")
def test_resumed_run_has_the_learning_rate_of_the_settings(run, make_trainer):
    trainer = make_trainer(max_steps=6, learning_rate=1e-5)
    trainer.train(resume_from_checkpoint=str(run / "checkpoint-4"))
    whole = make_trainer(max_steps=6, learning_rate=1e-5, output_dir=str(run / "whole"))
    whole.train()
    rates = [
        {log["step"]: log["learning_rate"] for log in each.state.log_history if "loss" in log}
        for each in (trainer, whole)
    ]
    assert rates[0][4] == pytest.approx(500 * rates[1][4])
    assert [rates[0][step] for step in (5, 6)] == pytest.approx([rates[1][step] for step in (5, 6)])


def test_student_with_another_pack_resumes(run, tiny, teacher_folder, pairs, make_trainer, tmp_path):
    retriever = OpticalRetriever.from_pretrained(run / "checkpoint-6")
    trainer = make_trainer(
        student=retriever.model,
        processing_class=retriever.processor_of("base"),
        language="lo",
        train_dataset=in_lao(pairs),
        eval_dataset=None,
        max_steps=2,
        output_dir=str(tmp_path / "lo"),
        **SAVING,
    )
    trainer.train()
    read_weights(trainer.model, tmp_path / "lo" / "checkpoint-2", trainer.args.packs)


@pytest.mark.promise("Stopping anywhere", "Resuming a finished run takes no further step.")
def test_resuming_a_finished_run_takes_no_step(make_trainer, tmp_path):
    settings = {"num_train_epochs": 0.5, **SAVING, "lr_scheduler_type": "constant"}
    ended, resumed = make_trainer(**settings), make_trainer(**settings)
    ended.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    assert ended.state.global_step == resumed.state.global_step == 3
    assert all(torch.equal(weight, weights(resumed.model)[name]) for name, weight in weights(ended.model).items())


@pytest.mark.promise(
    "Stopping anywhere",
    "Resuming raises an error if the checkpoint has no optimizer or schedule, or an adapter of another scale.",
)
def test_checkpoint_without_optimizer_state_raises(run):
    """Trainer would silently reset optimizer and schedule."""
    for name in ("checkpoint-4", "checkpoint-6"):
        shutil.rmtree(run / name)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        (run / "checkpoint-2" / name).unlink()
    for given in ("last", str(run / "checkpoint-2")):
        with pytest.raises(ValueError, match="no state of the optimizer and the scheduler.*save_only_model=False"):
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


def test_adapter_of_another_scale_raises(run, make_trainer):
    with pytest.raises(ValueError, match="trained with lora_alpha=32, but this run has lora_alpha=4; resume with"):
        make_trainer(lora_alpha=4).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="trained with r=32, lora_alpha=32, but this run has r=8, lora_alpha=8"):
        read_weights(make_trainer(lora_rank=8).model, run / "checkpoint-2", ["sw"])


@pytest.mark.promise(
    "Stopping anywhere",
    "Only one run can be active in an `output_dir`; a killed run does not block the next.",
)
def test_second_run_in_a_folder_raises(make_trainer, tmp_path, monkeypatch):
    run = tmp_path / "run"
    run.mkdir()
    trainer = make_trainer(max_steps=1)
    with run_lock(run), pytest.raises(FileExistsError, match=f"output_dir {run} is in use by another run; wait"):
        trainer.train()
    # A killed run leaves its lock file, which must not block the next run.
    (run / ".run.lock").touch()
    trainer.train()
    assert list(run.iterdir()) == []

    def no_locks(*args, **kwargs):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("hf_optical.storage.locking.FileLock.acquire", no_locks)
    with run_lock(run):
        trainer.train()


class StopsHalfway(OTDistillationTrainer):
    """Stops after writing the optimizer state of a checkpoint."""

    def _save_optimizer_and_scheduler(self, output_dir):
        super()._save_optimizer_and_scheduler(output_dir)
        raise KeyboardInterrupt


def test_overwritten_checkpoint_is_incomplete_until_finished(run, make_trainer):
    shutil.rmtree(run / "checkpoint-6")
    with pytest.raises(KeyboardInterrupt):
        make_trainer(StopsHalfway, max_steps=6, **SAVING).train(resume_from_checkpoint=str(run / "checkpoint-2"))
    assert last_complete_checkpoint(run).endswith("checkpoint-2")


@pytest.mark.promise(
    "Stopping anywhere",
    "`save_total_limit` keeps the newest checkpoint and the best one, whatever their modification times, and deletes "
    "an old one only when the new one is on disk.",
)
def test_oldest_steps_are_deleted_whatever_the_modification_times(run, make_trainer):
    """The clock was set back. Incomplete checkpoints are deleted first."""
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


def test_partly_deleted_checkpoint_is_incomplete(make_trainer, tmp_path, monkeypatch):
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


@pytest.mark.promise("Stopping anywhere", "Metrics and the state of a run are written completely or not at all.")
def test_metrics_and_state_are_written_completely_or_not_at_all(make_trainer, tmp_path):
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


def test_folder_with_another_run_raises(run, tmp_path):
    with pytest.raises(FileExistsError, match=r"contains another run \(checkpoint-2.*--resume_from_checkpoint last"):
        checkpoint_to_resume(run, None)
    assert checkpoint_to_resume(tmp_path / "new", None) is None
    assert checkpoint_to_resume(run, "last").endswith("checkpoint-6")
    assert checkpoint_to_resume(run, str(run / "checkpoint-2")).endswith("checkpoint-2")
    with pytest.raises(FileNotFoundError, match="is not a complete checkpoint"):
        checkpoint_to_resume(run, str(run / "checkpoint-3"))
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="must be a folder"):
        checkpoint_to_resume(tmp_path / "file", None)


def test_resuming_without_checkpoint_starts_from_the_beginning(tmp_path, caplog):
    assert checkpoint_to_resume(tmp_path, "last") is None
    assert "starts from the beginning" in caplog.text


def test_checkpoint_of_another_language_or_base_raises(run, make_trainer, tmp_path):
    with pytest.raises(ValueError, match="checkpoint for sw, but this run trains ha"):
        other = make_trainer(language="ha", new_words=0, train_dataset=None, eval_dataset=None)
        read_weights(other.model, run / "checkpoint-2", ["ha"])
    other = tiny_checkpoint(tmp_path / "other", seed=5)
    with pytest.raises(ValueError, match=f"was trained on .*, but the student is {other}"):
        read_weights(make_trainer(student=other).model, run / "checkpoint-2", ["sw"])


def test_checkpoint_of_several_packs_needs_all_of_them(make_two, make_trainer, tmp_path):
    trainer = make_two(max_steps=4, **SAVING)
    trainer.train()
    trainer.save_model(tmp_path / "packs")
    with pytest.raises(FileExistsError, match=r"contains another run \(lo, sw\)"):
        checkpoint_to_resume(tmp_path / "packs", None)
    run = tmp_path / "run"
    last = run / "checkpoint-4"
    assert last_complete_checkpoint(run) == str(last)
    assert [path.name for path in pack_folders(last)] == ["lo", "sw"] and pack_folders(run) == []
    with pytest.raises(ValueError, match="checkpoint for lo, sw, but this run trains sw;"):
        read_weights(make_trainer().model, last, ["sw"])
    (last / "lo" / "language_pack.json").unlink()
    assert last_complete_checkpoint(run).endswith("checkpoint-2")
    with pytest.raises(ValueError, match="checkpoint for sw, but this run trains sw, lo;"):
        read_weights(make_two().model, last, ["sw", "lo"])


def test_read_weights_of_a_whole_model(make_trainer, tmp_path):
    trainer = make_trainer(train_all_weights=True, max_steps=2)
    trainer.train()
    trainer.save_model(tmp_path / "whole")
    fresh = make_trainer(train_all_weights=True).model
    read_weights(fresh, tmp_path / "whole", [])
    assert all(torch.equal(weight, weights(fresh)[name]) for name, weight in weights(trainer.model).items())


class Interrupt(TrainerCallback):
    """Send SIGINT in the middle of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_interrupted_run_resumes_to_the_same_weights(make_trainer, tmp_path):
    settings = {"max_steps": 6, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    straight = make_trainer(output_dir=str(tmp_path / "straight"), **settings)
    straight.train()
    stopped = make_trainer(callbacks=[Interrupt(3)], **settings)
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
    """Send SIGTERM at an event of a step."""

    def __init__(self, event: str, step: int):
        self.step = step
        setattr(self, event, self._interrupt)

    def _interrupt(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("event", ["on_pre_optimizer_step", "on_train_end"])
def test_interrupt_after_the_last_step_lets_training_finish(make_trainer, tmp_path, event, caplog):
    last = 5 if event == "on_pre_optimizer_step" else 6
    trainer = make_trainer(callbacks=[InterruptAt(event, last)], eval_strategy="epoch")
    assert trainer.train().global_step == 6
    assert "already finished" in caplog.text and last_complete_checkpoint(tmp_path / "run") is None


class EverWorse(OTDistillationTrainer):
    """Report a metric that gets worse with every evaluation."""

    def _evaluate(self, *args, **kwargs):
        return super()._evaluate(*args, **kwargs) | {"eval_worse": float(self.state.global_step)}


@pytest.mark.promise(
    "Stopping anywhere",
    "Ctrl-C and SIGTERM finish the step and save a checkpoint, whatever else is saved (`save_strategy` "
    '"no" and "best", `save_only_model`); after the last step, they let training finish. The resumed run '
    "evaluates at the same steps as an uninterrupted one and reaches the same weights.",
)
@pytest.mark.parametrize(
    "settings",
    [
        {"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "worse"},
        {"save_strategy": "steps", "save_steps": 1, "save_only_model": True},
    ],
)
def test_interrupt_saves_a_checkpoint_under_every_strategy(make_trainer, tmp_path, settings):
    settings = {"greater_is_better": False, **settings}
    trainer = make_trainer(EverWorse, callbacks=[InterruptAt("on_step_begin", 2)], **settings)
    with pytest.raises(KeyboardInterrupt, match="after saving"):
        trainer.train()
    assert checkpoint_to_resume(tmp_path / "run", "last").endswith("checkpoint-3")


@pytest.mark.parametrize(
    ("step", "saving"),
    [
        (6, "no"),
        pytest.param(3, "epoch", marks=pytest.mark.slow),
        pytest.param(12, "epoch", marks=pytest.mark.slow),
    ],
)
def test_interrupted_run_evaluates_at_the_same_steps(make_trainer, tmp_path, step, saving):
    """Also if it was interrupted in the last step of an epoch or of the run."""

    def make(name: str, *callbacks: TrainerCallback) -> OTDistillationTrainer:
        return make_trainer(
            output_dir=str(tmp_path / name),
            callbacks=callbacks,
            **{"num_train_epochs": 2, "eval_strategy": "epoch", "save_strategy": saving, "save_total_limit": None},
            **{"metric_for_best_model": "loss", "load_best_model_at_end": saving == "epoch"},
        )

    def history(trainer: OTDistillationTrainer) -> tuple:
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
    assert history(trainer) == history(straight)
    assert all(torch.equal(weight, weights(trainer.model)[name]) for name, weight in weights(straight.model).items())


@pytest.fixture
def interruptible():
    """Restore the handler of Ctrl-C, which a process that is started in the background ignores."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_second_interrupt_stops_at_once_and_handlers_are_restored(interruptible):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as stopped, SaveOnInterrupt():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal must end the block")
    assert "checkpoint" not in str(stopped.value)
    assert signal.getsignal(signal.SIGINT) is before


def test_sigterm_after_ctrl_c_does_not_interrupt_saving():
    with pytest.raises(KeyboardInterrupt, match="after saving a checkpoint"), SaveOnInterrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        interrupt.stopped = True


def test_error_in_training_is_raised_after_an_interrupt():
    with pytest.raises(ZeroDivisionError), SaveOnInterrupt():
        os.kill(os.getpid(), signal.SIGINT)
        1 / 0  # noqa: B018


def test_signal_handlers_are_unchanged_outside_the_main_thread():
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with SaveOnInterrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
