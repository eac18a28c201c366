"""A pack that is trained in about a minute, for a first look at the page."""

from __future__ import annotations

import os

from ..bitext import load_bitext
from ..retrieval import DEFAULT_BASE
from ..training import OTDistillationConfig, OTDistillationTrainer


def train_short_pack(
    train_file: str | os.PathLike, language: str, output_dir: str | os.PathLike, epochs: float = 3
) -> None:
    """
    Train a pack on the default base, without evaluation or checkpoints.

    Args:
        train_file (`str` or `os.PathLike`): Sentence pairs, as in [`load_bitext`].
        language (`str`): Language code.
        output_dir (`str` or `os.PathLike`): Folder of the pack.
        epochs (`float`, defaults to 3): Passes over the sentence pairs.
    """
    trainer = OTDistillationTrainer(
        model=DEFAULT_BASE,
        teacher=DEFAULT_BASE,
        args=OTDistillationConfig(
            output_dir=os.fspath(output_dir),
            language=[language],
            num_train_epochs=epochs,
            eval_strategy="no",
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=load_bitext(train_file, language),
    )
    trainer.train()
    trainer.save_model()
