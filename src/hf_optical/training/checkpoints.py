"""Stopping and going on: which folder holds a run, checkpoints that are whole, and Ctrl-C without lost work."""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import shutil
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ..languages import LanguagePack, languages
from ..languages.adapters import adapter_name
from ..languages.pack import ADAPTER_CONFIG, PACK_CONFIG, is_pack
from ..model import OpticalModel
from ..storage.locking import run_lock
from ..storage.names import WEIGHTS
from ..storage.staging import explain_write_errors, flush, staged_directory
from .distributed import any_process, from_main_process


logger = logging.getLogger(__name__)

_STATE = "trainer_state.json"
_ALL_RESULTS = "all_results.json"
# What an adapter's weights are multiplied by: the same weights are another adapter where these differ.
_SCALE = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")


class ResumableTrainer(Trainer):
    """
    A [`~transformers.Trainer`] that can be killed at any moment: what it has half-written, half-deleted or not yet
    brought to the disk is never taken for a checkpoint, and the last whole one is there until the next one is.
    """

    # What training began with, for `auto_find_batch_size`: weights, optimizer, schedule.
    _beginning: _Beginning | None = None

    def __init__(self, *args, callbacks: list[TrainerCallback] | None = None, **kwargs):
        self._interrupt = SaveOnInterrupt()
        super().__init__(*args, callbacks=[self._interrupt, *(callbacks or [])], **kwargs)

    @contextmanager
    def running(self, resume_from_checkpoint: str | bool | None = None) -> Iterator[str | None]:
        """
        A block around training in which no other run writes to `output_dir`.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): as in [`checkpoint_to_resume`].

        Yields:
            `str`, *optional*: the checkpoint to go on from.

        Raises:
            OSError: `output_dir` cannot be written to, another run is at work in it, or the checkpoint is not whole.
            ValueError: the checkpoint lacks what is needed to go on from it.
        """
        output_dir = self.args.output_dir
        if self.args.should_save:
            # What cannot be written to is told before the work, not behind it.
            with staged_directory(output_dir):
                pass
        self._beginning = None
        with ExitStack() as held:

            def begin() -> str | None:
                if self.args.should_save:
                    held.enter_context(run_lock(output_dir))
                asked = _is_asked(resume_from_checkpoint)
                return checkpoint_to_resume(output_dir, resume_from_checkpoint) if asked else None

            yield from_main_process(begin)

    def get_batch_samples(self, *args) -> tuple[list[Any], Tensor | int | None]:
        # Trainer asks whether that was the last step behind a step only, so a run that had ended would make one more.
        return ([], None) if self.state.global_step >= self.state.max_steps else super().get_batch_samples(*args)

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *args, **kwargs) -> None:
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        # After the evaluation that is due: it may end training, and where the best is saved it decides on saving.
        if self._interrupt.due and not self.control.should_training_stop:
            only_model = self.args.save_only_model
            if only_model or not self._interrupt.saved:
                self.args.save_only_model = False
                try:
                    self._save_checkpoint(model, trial)
                finally:
                    self.args.save_only_model = only_model
                self.control = self.callback_handler.on_save(self.args, self.state, self.control)
            self.control.should_training_stop = self._interrupt.stopped = True

    def _update_auto_batch_size(self, batch_size: int) -> None:
        super()._update_auto_batch_size(batch_size)
        if self._beginning is None:
            self._beginning = _Beginning(self.model, self.optimizer, self.lr_scheduler)
        else:
            # A batch did not fit. Trainer begins again, but with what the steps before made of weights and optimizer.
            self.optimizer, self.lr_scheduler = self._beginning.restore()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run = Path(self._get_output_dir(trial))
        folder = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            # A whole one of the same step is written over, and is no longer whole from here on.
            (folder / _STATE).unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        # Trainer would delete older ones before this one is on the disk, and tells their age by the clock.
        with self._no_limit() as limit, explain_write_errors(folder):
            super()._save_checkpoint(model, trial)
        if self.args.should_save:
            for path in (folder / _STATE, folder, run):
                flush(path)
            _delete_older(run, limit, [folder, self.state.best_model_checkpoint])

    def _finalize_training(self, trial: Any, *args, **kwargs) -> TrainOutput:
        with self._no_limit() as limit:
            output = super()._finalize_training(trial, *args, **kwargs)
        # As Trainer has it: of one checkpoint that is to be left, it is the best.
        if self.args.should_save and limit == 1 and self.state.best_model_checkpoint:
            _delete_older(Path(self._get_output_dir(trial)), limit, [self.state.best_model_checkpoint])
        return output

    @contextmanager
    def _no_limit(self) -> Iterator[int | None]:
        """Has Trainer delete no checkpoints; gives the limit that is set."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            yield limit
        finally:
            self.args.save_total_limit = limit

    def _save_rng_state(self, output_dir: str) -> None:
        # The last that every process writes. After it the main one writes the state, by which a checkpoint is whole.
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            flush(output_dir, deep=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        read_weights(self.model, resume_from_checkpoint)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._load_best_model()
        read_weights(self.model, self.state.best_model_checkpoint)

    def save_state(self) -> None:
        if self.is_world_process_zero():
            with staged_directory(self.args.output_dir) as staged:
                self.state.save_to_json(str(staged / _STATE))

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        if not self.is_world_process_zero():
            return
        contents = {f"{split}_results.json": metrics}
        if combined:
            before = Path(self.args.output_dir, _ALL_RESULTS)
            contents[_ALL_RESULTS] = (json.loads(before.read_text("utf-8")) if before.exists() else {}) | metrics
        with staged_directory(self.args.output_dir) as staged:
            for name, content in contents.items():
                (staged / name).write_text(json.dumps(content, indent=4, sort_keys=True), encoding="utf-8")


class _Beginning:
    """The weights that are trained, and the optimizer and schedule that were given, as they are now."""

    def __init__(self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: LRScheduler | None):
        self._weights = [(weight, weight.detach().clone()) for weight in model.parameters() if weight.requires_grad]
        self._given = (optimizer, lr_scheduler)
        self._states = [copy.deepcopy(each.state_dict()) if each else None for each in self._given]

    @torch.no_grad()
    def restore(self) -> tuple[Optimizer | None, LRScheduler | None]:
        for weight, before in self._weights:
            weight.copy_(before)
        for each, state in zip(self._given, self._states, strict=True):
            if each:
                each.load_state_dict(copy.deepcopy(state))
        return self._given


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The newest checkpoint of a run that was written to its end, or `None`. Half-written ones are passed over."""
    return next((str(folder) for folder in reversed(_checkpoints(output_dir)) if _is_complete(folder)), None)


def resume_point(args: TrainingArguments) -> str | None:
    """As [`checkpoint_to_resume`] for the settings of a run, on every process; call it before anything takes time."""
    return from_main_process(lambda: checkpoint_to_resume(args.output_dir, args.resume_from_checkpoint))


def checkpoint_to_resume(output_dir: str | os.PathLike, resume_from_checkpoint: str | bool | None) -> str | None:
    """
    Where a run starts from, and whether it may start at all.

    Args:
        output_dir (`str` or `os.PathLike`): where the run writes.
        resume_from_checkpoint (`str` or `bool`, *optional*):
            A checkpoint folder; or `True` (`"true"`, `"last"`) for the newest whole one in `output_dir`.

    Returns:
        `str`, *optional*: the checkpoint; `None` starts from the beginning.

    Raises:
        FileExistsError: `output_dir` holds another run, and resuming was not asked for.
        FileNotFoundError: the checkpoint named is not there, or was not written to its end.
        ValueError: the checkpoint, also if it is the newest whole one, holds no state of optimizer or schedule, as
            with `save_only_model`.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise FileExistsError(f"output_dir {output_dir} is a file; choose a folder")
    if str(resume_from_checkpoint).lower() in ("true", "last"):
        checkpoint = last_complete_checkpoint(output_dir)
        if checkpoint is None:
            logger.warning("There is no whole checkpoint in %s; the run starts from the beginning.", output_dir)
        return checkpoint and _with_its_state(checkpoint)
    if _is_asked(resume_from_checkpoint):
        if not _is_complete(Path(resume_from_checkpoint)):
            raise FileNotFoundError(
                f"{resume_from_checkpoint} is no whole checkpoint; pass --resume_from_checkpoint last for the newest "
                "one"
            )
        return _with_its_state(str(resume_from_checkpoint))
    holds = [name for name in (PACK_CONFIG, WEIGHTS, "eval_results.json") if (output_dir / name).exists()]
    holds += [folder.name for folder in pack_folders(output_dir) if folder != output_dir]
    holds += [folder.name for folder in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")]
    if holds:
        raise FileExistsError(
            f"output_dir {output_dir} holds another run ({', '.join(sorted(holds)[:4])}). Pass "
            "--resume_from_checkpoint last to go on with it, or choose another --output_dir"
        )
    return None


def _is_asked(resume_from_checkpoint: str | bool | None) -> bool:
    """Whether a run is to go on; on a command line no is a word."""
    return bool(resume_from_checkpoint) and str(resume_from_checkpoint).lower() != "false"


def _with_its_state(checkpoint: str) -> str:
    """The checkpoint, if it holds more than weights: Trainer would begin anew with optimizer and schedule."""
    # FSDP writes `optimizer.bin` or `optimizer_0/`; DeepSpeed has all of it in a folder of its own.
    if not any(Path(checkpoint).glob("global_step*")):
        missing = [name for name in ("optimizer", "scheduler") if not any(Path(checkpoint).glob(f"*{name}*"))]
        if missing:
            raise ValueError(
                f"{checkpoint} holds no state of the {' and the '.join(missing)}, so a run cannot go on from it; name "
                "a checkpoint that does, or start again in another output_dir and leave save_only_model at False"
            )
    return checkpoint


def read_weights(model: OpticalModel, folder: str | os.PathLike) -> None:
    """
    Sets the weights of a model in training from a checkpoint: those of its packs, or all of them.

    Raises:
        ValueError: the checkpoint is of other languages, another base, or an adapter of another scale.
    """
    folders = pack_folders(folder)
    if not folders:
        model.load_state_dict(OpticalModel.from_pretrained(folder).state_dict())
        return
    packs = [LanguagePack.from_pretrained(path) for path in folders]
    found = sorted(pack.language for pack in packs)
    if found != sorted(languages(model)):
        raise ValueError(
            f"{folder} is a checkpoint for {', '.join(found)}, and this run trains "
            f"{', '.join(languages(model)) or 'all weights'}; choose another output_dir"
        )
    fingerprint = model.fingerprint()
    for pack in packs:
        if pack.base_fingerprint != fingerprint:
            raise ValueError(f"{folder} was trained on {pack.base_model}, and the student is {model.name_or_path}")
        config = model.encoder.peft_config[adapter_name(pack.language)]
        before, now = ({name: getattr(each, name) or None for name in _SCALE} for each in (pack.lora_config, config))
        if changed := [name for name in _SCALE if before[name] != now[name]]:
            raise ValueError(
                f"{folder} was trained with {', '.join(f'{name}={before[name]}' for name in changed)}, and this run "
                f"has {', '.join(f'{name}={now[name]}' for name in changed)}; go on with the same settings, or choose "
                "another output_dir"
            )
        pack.load_into(model)


def pack_folders(folder: str | os.PathLike) -> list[Path]:
    """Where the packs of a run are: one in the folder itself, several each in a folder of its own."""
    folder = Path(folder)
    if is_pack(folder):
        return [folder]
    return sorted(
        path.parent
        for path in folder.glob(f"*/{PACK_CONFIG}")
        if not path.parent.name.startswith(f"{PREFIX_CHECKPOINT_DIR}-")
    )


def _checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    """The checkpoints of a run, whole or not, by their steps; copies that somebody made under other names are none."""
    found = {
        path: re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-([0-9]+)", path.name)
        for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    }
    steps = {path: int(match[1]) for path, match in found.items() if match}
    return sorted(steps, key=steps.get)


def _delete_older(run: Path, limit: int | None, kept: Iterable[str | os.PathLike | None]) -> None:
    """Deletes checkpoints until no more than `limit` are left: those that are not whole, then those of early steps."""
    if not limit or limit < 0:
        return
    checkpoints, kept = _checkpoints(run), {Path(folder).resolve() for folder in kept if folder}
    others = [folder for folder in checkpoints if folder.resolve() not in kept]
    for folder in sorted(others, key=_is_complete)[: max(0, len(checkpoints) - limit)]:
        with suppress(OSError):
            (folder / _STATE).unlink(missing_ok=True)
            shutil.rmtree(folder)


def _is_complete(folder: Path) -> bool:
    # What makes it whole is written last, and deleted first.
    try:
        json.loads((folder / _STATE).read_text(encoding="utf-8"))
        TrainerState.load_from_json(str(folder / _STATE))
    except (OSError, ValueError, TypeError):
        return False
    packs = pack_folders(folder)
    damaged = len(packs) < len(list(folder.glob(f"*/{ADAPTER_CONFIG}")))
    return bool(packs) and not damaged or (folder / WEIGHTS).is_file()


class SaveOnInterrupt(TrainerCallback):
    """
    Ctrl-C (and SIGTERM) finishes the step, saves a checkpoint and then stops; a second Ctrl-C stops at once.

    Used as a context around the training of a [`ResumableTrainer`]. On leaving it after such a stop, raises
    `KeyboardInterrupt`; where training came to its own end before, it has simply ended.

    Attributes:
        due (`bool`): whether to stop here. In mid-epoch behind the step; behind the last one of an epoch only after
            what the end of the epoch evaluates, so that this belongs to the checkpoint.
        saved (`bool`): whether a checkpoint was saved here.
        stopped (`bool`): whether training was stopped.
    """

    def __init__(self):
        self._handlers: dict[int, object] = {}
        self._reset()

    def _reset(self) -> None:
        # Whether this process was asked, and whether all know by now that one was.
        self._requested = self._agreed = False
        self.due = self.saved = self.stopped = False

    def __enter__(self) -> SaveOnInterrupt:
        self._reset()
        # Signals reach the main thread alone; elsewhere, as in a notebook's worker, they are left as they are.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *error) -> None:
        self._restore()
        if self.stopped and error[0] is None:
            raise KeyboardInterrupt("stopped after saving a checkpoint; resume_from_checkpoint goes on from there")
        if self._requested and error[0] is None:
            logger.warning("Training had come to its end already.")

    def _request(self, number: int, frame: object) -> None:
        self._requested = True
        # This signal alone: after a Ctrl-C torchrun sends SIGTERM to its workers, which must not cut the saving short.
        signal.signal(number, self._handlers.pop(number))
        logger.warning("Stopping: this step is finished and saved first. Once more to stop at once, without saving.")

    def _restore(self) -> None:
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, handler)

    def on_step_end(self, args, state, control, **kwargs):
        self._agreed = any_process(self._requested, args.device)
        self.due, self.saved = self._agreed and state.epoch % 1 > 0, False

    def on_epoch_end(self, args, state, control, **kwargs):
        self.due, self.saved = self._agreed, False
        if self.stopped:
            # Trainer takes leaving the epoch for its end.
            control.should_evaluate = control.should_save = False

    def on_save(self, args, state, control, **kwargs):
        self.saved = True
