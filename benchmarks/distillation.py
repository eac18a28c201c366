"""Shared code of the benchmarks that train packs or open them: options, test sets, trainers and files of runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_optical import OTDistillationConfig, OTDistillationTrainer
from hf_optical.evaluation import RetrievalDataset, RetrievalEvaluator, load_beir, sample_pool


def add_pair_options(parser: argparse.ArgumentParser, pairs_required: bool = True) -> None:
    """Add the options of a base and the sentence pairs of a language."""
    base = "sentence-transformers/all-MiniLM-L6-v2"
    parser.add_argument("--base", default=base, help="folder or Hub id of teacher and student")
    parser.add_argument("--language", required=True)
    parser.add_argument("--train_file", required=pairs_required, help="sentence pairs")


def add_question_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a test set."""
    parser.add_argument("--eval_dir", required=True, help="questions in BEIR layout")
    parser.add_argument("--eval_corpus", help="their documents, if they are not in that folder")
    parser.add_argument("--split", default="test")
    parser.add_argument("--documents", type=int, help="search a sample of so many documents (default: all)")


def load_questions(args: argparse.Namespace) -> RetrievalDataset:
    """Load the test set of [`add_question_options`]."""
    data = load_beir(args.eval_dir, args.split, args.eval_corpus)
    return sample_pool(data, args.documents) if args.documents else data


def read_runs(file: Path) -> dict[str, dict[str, Any]]:
    """Name -> run, of the JSON lines that [`add_run`] wrote."""
    lines = file.read_text().splitlines() if file.is_file() else []
    return {run["run"]: run for run in map(json.loads, lines)}


def add_run(file: Path, run: dict[str, Any]) -> None:
    """Append a run to a file of JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as output:
        output.write(json.dumps(run) + "\n")


def make_trainer(
    args: argparse.Namespace,
    evaluator: RetrievalEvaluator,
    folder: str,
    *,
    train_dataset: Dataset | None,
    english_texts: list[str] | None = None,
    **settings: Any,
) -> OTDistillationTrainer:
    """Make a trainer with the teacher of an evaluator, which writes nothing but what it is asked to."""
    return OTDistillationTrainer(
        args.base,
        evaluator.teacher,
        OTDistillationConfig(
            language=args.language,
            **settings,
            output_dir=folder,
            eval_strategy="no",
            save_strategy="no",
            train_sampling_strategy="group_by_length",
            report_to=[],
            use_cpu=True,
            bf16=args.bf16,
            disable_tqdm=True,
        ),
        train_dataset=train_dataset,
        english_texts=english_texts,
        teacher_processing_class=evaluator.processor,
    )
