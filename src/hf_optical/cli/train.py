from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .parser import Parser


DESCRIPTION = """\
Teach a retriever a language from sentence pairs, a dictionary or both, and measure retrieval before and after.

    hf-optical train --language sw --train_file pairs.csv
    hf-optical train --language ha ig --train_file ha.tmx ig.tmx --eval_dir questions/ha questions/ig
    hf-optical train --language bem --dictionary bem-en.txt --eval_dir questions/bem

On several GPUs: accelerate launch -m hf_optical train ...
"""
# The options that `--help` shows, by group; `--help_all` shows all. A value and a help; no value for a switch.
GROUPS: dict[str, dict[str, tuple[str | None, str]]] = {
    "data (a value per language, or one for all)": {
        "language": ("CODE", "language to teach, or several"),
        "train_file": ("FILE", "sentence pairs: CSV, TSV, JSON lines, Parquet, TMX, or aligned text files"),
        "dictionary": ("FILE", "dictionaries in MUSE's format, with sentence pairs or without"),
        "english_file": ("FILE", "documents to search, to train for (default: those of --eval_dir)"),
        "dataset_name": ("ID", "dataset on the Hub, in place of the files"),
        "student_column": ("NAME", "column in the new language, if its name is not the code"),
        "teacher_column": ("NAME", "column in English, if its name is not the code"),
        "eval_dir": ("FOLDER", "questions with relevant passages, in BEIR layout"),
    },
    "model": {
        "student_model": ("BASE", "folder or Hub id of the base of the pack (default: all-MiniLM-L6-v2)"),
        "teacher_model": ("BASE", "folder or Hub id of the teacher, which encodes the index (default: the base)"),
        # Importing the registry of methods takes seconds, so a test compares its names with these.
        "method": ("NAME", "ot (default), greedy, sentence, code_switch, ranking, hybrid or ot_ranking"),
    },
    "training": {
        "num_train_epochs": ("N", "passes over the sentences (default: 3, 2 from 800 on, 1 from 1,334)"),
        "per_device_train_batch_size": ("N", "sentence pairs per device and step (default: 32)"),
        "learning_rate": ("RATE", "default: 2e-3"),
        "bf16": (None, "train in mixed precision"),
    },
    "output": {
        "output_dir": ("FOLDER", "folder of the pack and its card (default: outputs/CODE)"),
        "resume_from_checkpoint": ("last", "continue a run that stopped"),
        "push_to_hub": (None, "publish the pack as --hub_model_id NAMESPACE/NAME"),
    },
}


def main(argv: Sequence[str]) -> None:
    if "--help_all" in argv:
        print_all_help()
    elif {"-h", "--help"}.intersection(argv) or not argv:
        make_parser().print_help()
    else:
        run_training(argv)


def run_training(argv: Sequence[str]) -> None:
    from ..training import build_run, evaluate_and_save, parse_run, publish, report, train_and_save

    run = build_run(*parse_run(argv))
    train_and_save(run)
    results = evaluate_and_save(run)
    report(run, results)
    publish(run)


def make_parser() -> Parser:
    parser = Parser("train", DESCRIPTION, usage="hf-optical train --language CODE --train_file FILE [options]")
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for name, (value, text) in options.items():
            shape: dict[str, Any] = {"metavar": value} if value else {"action": "store_true"}
            group.add_argument(f"--{name}", help=text.replace("%", "%%"), **shape)
    parser.epilog = "`hf-optical train --help_all` lists all options, among them those of TrainingArguments."
    return parser


def print_all_help() -> None:
    from transformers import HfArgumentParser

    from ..training import DataArguments, OTDistillationConfig

    dataclasses = [DataArguments, OTDistillationConfig]
    HfArgumentParser(dataclasses, prog="hf-optical train").print_help()  # type: ignore[arg-type]
