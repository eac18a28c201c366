"""Interrupted and resumed runs: complete checkpoints, what to resume from, and a checkpoint on Ctrl-C."""

from __future__ import annotations

import copy
import json
import logging
import os
import re
import shutil
import signal
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput

from ..languages import LanguagePack
from ..languages.adapters import adapter_name
from ..languages.pack import ADAPTER_CONFIG, PACK_CONFIG, is_pack
from ..model import OpticalModel
from ..storage.locking import run_lock
from ..storage.names import WEIGHTS
from ..storage.staging import explain_write_errors, flush, staged_directory
from .config import OTDistillationConfig
from .distributed import any_process, from_main_process


logger = logging.getLogger(__name__)

_STATE = "trainer_state.json"
_ALL_RESULTS = "all_results.json"
# Settings that scale an adapter: with other values, the same weights are a different adapter.
_SCALE = ("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern")


class ResumableTrainer(Trainer):
    """
    A [`~transformers.Trainer`] that can be killed at any time.

    The last complete checkpoint is kept until the next one is complete and flushed, and no other is ever used. Trainer
    has only private methods for writing, deleting and loading checkpoints, so those are overridden.
    """

    args: OTDistillationConfig
    model: OpticalModel
    # For `auto_find_batch_size`.
    _initial: InitialState | None = None

    def __init__(self, *args, callbacks: list[TrainerCallback] | None = None, **kwargs):
        self._interrupt = SaveOnInterrupt()
        super().__init__(*args, **kwargs | {"callbacks": [self._interrupt, *(callbacks or [])]})

    @contextmanager
    def running(self, resume_from_checkpoint: str | bool | None = None) -> Iterator[str | None]:
        """
        Lock `output_dir`, after checking that it can be written to, and yield the checkpoint to resume from, if any.
        """
        output_dir = self.args.output_dir
        if self.args.should_save:
            # Fail before training, not after it, if the folder cannot be written to.
            with staged_directory(output_dir):
                pass
        self._initial = None
        with ExitStack() as held:

            def begin() -> str | None:
                if self.args.should_save:
                    held.enter_context(run_lock(output_dir))
                resumes = _resume_requested(resume_from_checkpoint)
                return checkpoint_to_resume(output_dir, resume_from_checkpoint) if resumes else None

            yield from_main_process(begin)

    def get_batch_samples(self, *args) -> tuple[list[Any], Tensor | int | None]:
        # Trainer checks for the last step only after a step, so a run that had finished would take one more.
        return ([], None) if self.state.global_step >= self.state.max_steps else super().get_batch_samples(*args)

    def _maybe_log_save_evaluate(self, tr_loss, grad_norm, model, trial, *args, **kwargs) -> None:
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, model, trial, *args, **kwargs)
        # After a due evaluation, which may end training or, with `save_strategy="best"`, save a checkpoint.
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
        if self._initial is None:
            self._initial = InitialState(self.model, self.optimizer, self.lr_scheduler)
        else:
            # A batch did not fit. Trainer starts again, but would keep the weights and optimizer of the failed run.
            self.optimizer, self.lr_scheduler = self._initial.restore()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run = Path(self._get_output_dir(trial))
        folder = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.args.should_save:
            # A complete checkpoint of the same step is overwritten, so mark it incomplete first.
            (folder / _STATE).unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        # Trainer would delete old checkpoints before this one is on disk, and sort them by modification time
        # (huggingface/transformers#26961).
        with self._without_deleting() as limit, explain_write_errors(folder):
            super()._save_checkpoint(model, trial)
        if self.args.should_save:
            for path in (folder / _STATE, folder, run):
                flush(path)
            _delete_older(run, limit, [folder, self.state.best_model_checkpoint])

    def _finalize_training(self, trial: Any, *args, **kwargs) -> TrainOutput:
        with self._without_deleting() as limit:
            output = super()._finalize_training(trial, *args, **kwargs)
        # As in Trainer: if a single checkpoint is kept, it is the best one.
        if self.args.should_save and limit == 1 and self.state.best_model_checkpoint:
            _delete_older(Path(self._get_output_dir(trial)), limit, [self.state.best_model_checkpoint])
        return output

    @contextmanager
    def _without_deleting(self) -> Iterator[int | None]:
        """Keep Trainer from deleting checkpoints, and yield the limit that is set."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            yield limit
        finally:
            self.args.save_total_limit = limit

    def _save_rng_state(self, output_dir: str) -> None:
        # This is the last file of every process. The main process then writes the state, which marks completeness.
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            flush(output_dir, deep=True)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        read_weights(self.model, resume_from_checkpoint, self.args.packs)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super()._load_best_model()
        read_weights(self.model, str(self.state.best_model_checkpoint), self.args.packs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Resume with the learning rates of the settings, at the same point of the schedule."""
        schedule: Any = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
        rates = getattr(schedule, "base_lrs", None)
        super()._load_optimizer_and_scheduler(checkpoint)
        if rates is None or rates == schedule.base_lrs or self.optimizer is None or self.is_deepspeed_enabled:
            return
        logger.warning(
            "The checkpoint had a learning rate of %g; the run resumes at %g.", schedule.base_lrs[0], rates[0]
        )
        for group, before, now in zip(self.optimizer.param_groups, schedule.base_lrs, rates, strict=True):
            # At a rate of 0 the schedule sets the next one by the new base.
            group["lr"], group["initial_lr"] = group["lr"] * (now / before if before else 1.0), now
        schedule.base_lrs, schedule._last_lr = rates, [group["lr"] for group in self.optimizer.param_groups]

    def save_state(self) -> None:
        if self.is_world_process_zero():
            with staged_directory(self.args.output_dir) as staged:
                self.state.save_to_json(str(staged / _STATE))

    def save_metrics(self, split: str, metrics: Mapping[str, float | None], combined: bool = True) -> None:
        if not self.is_world_process_zero():
            return
        contents = {f"{split}_results.json": dict(metrics)}
        if combined:
            before = Path(self.args.output_dir, _ALL_RESULTS)
            earlier = json.loads(before.read_text("utf-8")) if before.exists() else {}
            contents[_ALL_RESULTS] = {**earlier, **metrics}
        with staged_directory(self.args.output_dir) as staged:
            for name, content in contents.items():
                (staged / name).write_text(json.dumps(content, indent=4, sort_keys=True), encoding="utf-8")


class InitialState:
    """A copy of the trained weights, and of the given optimizer and schedule."""

    def __init__(self, model: nn.Module, optimizer: Optimizer | None, lr_scheduler: LRScheduler | None):
        self._weights = [(weight, weight.detach().clone()) for weight in model.parameters() if weight.requires_grad]
        self._given = (optimizer, lr_scheduler)
        self._states = [copy.deepcopy(each.state_dict()) if each else {} for each in self._given]

    @torch.no_grad()
    def restore(self) -> tuple[Any, Any]:
        for weight, before in self._weights:
            weight.copy_(before)
        for each, state in zip(self._given, self._states, strict=True):
            if each:
                each.load_state_dict(copy.deepcopy(state))
        return self._given


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """Return the newest complete checkpoint of a run, or `None`."""
    return next((str(folder) for folder in reversed(_checkpoints(output_dir)) if _is_complete(folder)), None)


def resume_point(args: OTDistillationConfig) -> str | None:
    """Call [`checkpoint_to_resume`] with the settings of a run, on every process."""
    return from_main_process(lambda: checkpoint_to_resume(args.output_dir, args.resume_from_checkpoint))


def checkpoint_to_resume(output_dir: str | os.PathLike, resume_from_checkpoint: str | bool | None) -> str | None:
    """
    Return the checkpoint to start a run from, or `None`; `True`, `"true"` or `"last"` stands for the newest one.

    Raises `FileExistsError` if `output_dir` contains another run that is not to be resumed, `FileNotFoundError` if the
    checkpoint is incomplete, and `ValueError` if it has no state of optimizer or schedule, as with `save_only_model`.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise FileExistsError(f"output_dir must be a folder, got the file {output_dir}")
    if str(resume_from_checkpoint).lower() in ("true", "last"):
        checkpoint = last_complete_checkpoint(output_dir)
        if checkpoint is None:
            logger.warning("There is no complete checkpoint in %s; the run starts from the beginning.", output_dir)
        return checkpoint and _checked_state(checkpoint)
    if _resume_requested(resume_from_checkpoint):
        if not _is_complete(Path(str(resume_from_checkpoint))):
            raise FileNotFoundError(
                f"{resume_from_checkpoint} is not a complete checkpoint; pass --resume_from_checkpoint last for the "
                "newest one"
            )
        return _checked_state(str(resume_from_checkpoint))
    found = [name for name in (PACK_CONFIG, WEIGHTS, "eval_results.json") if (output_dir / name).exists()]
    found += [folder.name for folder in pack_folders(output_dir) if folder != output_dir]
    found += [folder.name for folder in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")]
    if found:
        raise FileExistsError(
            f"output_dir {output_dir} contains another run ({', '.join(sorted(found)[:4])}). Pass "
            "--resume_from_checkpoint last to resume it, or choose another --output_dir"
        )
    return None


def _resume_requested(resume_from_checkpoint: str | bool | None) -> bool:
    """Return whether a run is to be resumed; on a command line, `False` is the word `"false"`."""
    return bool(resume_from_checkpoint) and str(resume_from_checkpoint).lower() != "false"


def _checked_state(checkpoint: str) -> str:
    """Return the checkpoint if it has the state of optimizer and schedule, which Trainer would otherwise reset."""
    # FSDP writes `optimizer.bin` or `optimizer_0/`; DeepSpeed writes both into a folder `global_step...`.
    if not any(Path(checkpoint).glob("global_step*")):
        missing = [name for name in ("optimizer", "scheduler") if not any(Path(checkpoint).glob(f"*{name}*"))]
        if missing:
            raise ValueError(
                f"{checkpoint} has no state of the {' and the '.join(missing)}, so a run cannot resume from it; pass "
                "another checkpoint, or start again in another output_dir with save_only_model=False"
            )
    return checkpoint


def read_weights(model: OpticalModel, folder: str | os.PathLike, packs: Collection[str]) -> None:
    """Load the weights of a checkpoint into a model that trains some of its `packs`, or, without any, all weights."""
    folders = pack_folders(folder)
    if not folders:
        model.load_state_dict(OpticalModel.from_pretrained(folder).state_dict())
        return
    saved = [LanguagePack.from_pretrained(path) for path in folders]
    found = sorted(pack.language for pack in saved)
    if found != sorted(packs):
        raise ValueError(
            f"{folder} is a checkpoint for {', '.join(found)}, but this run trains "
            f"{', '.join(packs) or 'all weights'}; choose another output_dir"
        )
    if model.projection is not None and model.fitted and saved[0].projection:
        # Fitted again, it may differ in the last bits.
        model.projection.load_state_dict(saved[0].projection)
    fingerprint = model.fingerprint()
    for pack in saved:
        if pack.base_fingerprint != fingerprint:
            raise ValueError(f"{folder} was trained on {pack.base_model}, but the student is {model.name_or_path}")
        config = model.encoder.peft_config[adapter_name(pack.language)]
        before, now = ({name: getattr(each, name) or None for name in _SCALE} for each in (pack.lora_config, config))
        if changed := [name for name in _SCALE if before[name] != now[name]]:
            raise ValueError(
                f"{folder} was trained with {', '.join(f'{name}={before[name]}' for name in changed)}, but this run "
                f"has {', '.join(f'{name}={now[name]}' for name in changed)}; resume with the same settings, or "
                "choose another output_dir"
            )
        pack.load_into(model)


def pack_folders(folder: str | os.PathLike) -> list[Path]:
    """List the folders of a run's packs: a single pack is in `folder` itself, several are in its subfolders."""
    folder = Path(folder)
    if is_pack(folder):
        return [folder]
    return sorted(
        path.parent
        for path in folder.glob(f"*/{PACK_CONFIG}")
        if not path.parent.name.startswith(f"{PREFIX_CHECKPOINT_DIR}-")
    )


def _checkpoints(output_dir: str | os.PathLike) -> list[Path]:
    """List the checkpoints of a run, complete or not, by step. Copies under other names are left out."""
    found = {
        path: re.fullmatch(rf"{PREFIX_CHECKPOINT_DIR}-([0-9]+)", path.name)
        for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    }
    steps = {path: int(match[1]) for path, match in found.items() if match}
    return sorted(steps, key=steps.__getitem__)


def _delete_older(run: Path, limit: int | None, kept: Iterable[str | os.PathLike | None]) -> None:
    """Delete checkpoints until at most `limit` are left: first incomplete ones, then those of early steps."""
    if not limit or limit < 0:
        return
    checkpoints, kept = _checkpoints(run), {Path(folder).resolve() for folder in kept if folder}
    others = [folder for folder in checkpoints if folder.resolve() not in kept]
    for folder in sorted(others, key=_is_complete)[: max(0, len(checkpoints) - limit)]:
        with suppress(OSError):
            (folder / _STATE).unlink(missing_ok=True)
            shutil.rmtree(folder)


def _is_complete(folder: Path) -> bool:
    # The state is written last and deleted first.
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
    Stop on Ctrl-C or SIGTERM after the current step, with a checkpoint. A second Ctrl-C stops at once.

    It is used as a context around the training of a [`ResumableTrainer`]. Leaving the context after such a stop raises
    `KeyboardInterrupt`, unless training had finished before.

    Training stops when it is `due`: within an epoch after the step, and after its last step only once the evaluation
    at the end of the epoch is done, so that the checkpoint contains it.
    """

    def __init__(self):
        self._handlers: dict[int, Any] = {}
        self._reset()

    def _reset(self) -> None:
        # Whether this process received a signal, and whether all processes know that one did.
        self._requested = self._agreed = False
        self.due = self.saved = self.stopped = False

    def __enter__(self) -> SaveOnInterrupt:
        self._reset()
        # Only the main thread may set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *error) -> None:
        self._restore()
        if self.stopped and error[0] is None:
            raise KeyboardInterrupt("stopped after saving a checkpoint; pass resume_from_checkpoint to continue")
        if self._requested and error[0] is None:
            logger.warning("Training had already finished.")

    def _request(self, number: int, frame: object) -> None:
        self._requested = True
        # Only for this signal: after Ctrl-C, torchrun sends SIGTERM to its workers, which must not interrupt saving.
        signal.signal(number, self._handlers.pop(number))
        logger.warning(
            "Stopping after this step and saving a checkpoint. Press Ctrl-C again to stop at once, without saving."
        )

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
            # Trainer treats leaving the epoch as its end.
            control.should_evaluate = control.should_save = False

    def on_save(self, args, state, control, **kwargs):
        self.saved = True
