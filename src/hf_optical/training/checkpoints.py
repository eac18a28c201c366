"""Stopping and going on: which folder holds a run, which checkpoint is whole, and Ctrl-C without lost work."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..languages import LanguagePack, languages
from ..languages.pack import ADAPTER_CONFIG, PACK_CONFIG, is_pack
from ..model import OpticalModel
from ..model.layout import WEIGHTS
from .distributed import any_process


logger = logging.getLogger(__name__)

_STATE = "trainer_state.json"


def last_complete_checkpoint(output_dir: str | os.PathLike) -> str | None:
    """The newest checkpoint of a run that was written to its end, or `None`. Half-written ones are passed over."""
    found = []
    for folder in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = folder.name.rsplit("-", 1)[-1]
        if step.isdigit() and _is_complete(folder):
            found.append((int(step), str(folder)))
    return max(found)[1] if found else None


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
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise FileExistsError(f"output_dir {output_dir} is a file; choose a folder")
    if str(resume_from_checkpoint).lower() in ("true", "last"):
        checkpoint = last_complete_checkpoint(output_dir)
        if checkpoint is None:
            logger.warning("There is no whole checkpoint in %s; the run starts from the beginning.", output_dir)
        return checkpoint
    if resume_from_checkpoint and str(resume_from_checkpoint).lower() != "false":
        if not _is_complete(Path(resume_from_checkpoint)):
            raise FileNotFoundError(
                f"{resume_from_checkpoint} is no whole checkpoint; pass --resume_from_checkpoint last for the newest "
                "one"
            )
        return str(resume_from_checkpoint)
    holds = [name for name in (PACK_CONFIG, WEIGHTS, "eval_results.json") if (output_dir / name).exists()]
    holds += [folder.name for folder in pack_folders(output_dir) if folder != output_dir]
    holds += [folder.name for folder in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")]
    if holds:
        raise FileExistsError(
            f"output_dir {output_dir} holds another run ({', '.join(sorted(holds)[:4])}). Pass "
            "--resume_from_checkpoint last to go on with it, or choose another --output_dir"
        )
    return None


def read_weights(model: OpticalModel, folder: str | os.PathLike) -> None:
    """
    Sets the weights of a model in training from a checkpoint: those of its packs, or all of them.

    Raises:
        ValueError: the checkpoint is of other languages or another base.
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


def _is_complete(folder: Path) -> bool:
    # Trainer writes its state last.
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

    Used as a context around training. On leaving it after such a stop, raises `KeyboardInterrupt`.
    """

    def __init__(self):
        self.requested = False
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> SaveOnInterrupt:
        self.requested = False
        # Signals reach the main thread alone; elsewhere, as in a notebook's worker, they are left as they are.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *error) -> None:
        self._restore()
        if self.requested and error[0] is None:
            raise KeyboardInterrupt("stopped after saving a checkpoint; resume_from_checkpoint goes on from there")

    def _request(self, number: int, frame: object) -> None:
        self.requested = True
        # This signal alone: after a Ctrl-C torchrun sends SIGTERM to its workers, which must not cut the saving short.
        signal.signal(number, self._handlers.pop(number))
        logger.warning("Stopping: this step is finished and saved first. Once more to stop at once, without saving.")

    def _restore(self) -> None:
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, handler)

    def on_step_end(self, args, state, control, **kwargs):
        self.requested = any_process(self.requested, args.device)
        if self.requested:
            control.should_save = True
            control.should_training_stop = True
