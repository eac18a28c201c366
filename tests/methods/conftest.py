"""The trainer fixtures."""

from training.conftest import (  # noqa: F401
    held_out,
    make_trainer,
    make_two,
    pairs,
    teacher_folder,
    triples,
    two,
    two_held_out,
)
