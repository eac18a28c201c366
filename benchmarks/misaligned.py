"""
What do misaligned pairs cost each method, with the filter of the trainer and without?

    python benchmarks/misaligned.py --language ha --train_file train.jsonl.gz --pairs 3000 --eval_dir questions/ha \\
        --eval_corpus corpus.jsonl.gz --split train --documents 1200 --noise none shuffle:0.3 shift:0.3 \\
        --methods ot unbalanced greedy sentence --seeds 1 2 3 --output outputs/misaligned.jsonl

`shuffle:0.3` gives 30 % of the sentences the translation of another one. `shift:0.3` moves the translations of three
blocks of neighbours, 30 % of the pairs, by one line, as where a line is missing in one of two files. A seed draws the
pairs and orders the training. Besides methods, `--methods` takes the solvers of transport. Sentence vectors and
rankings have no filter, so run them with `--filter no`.

Each line of the output is a run; those that it has already are not repeated. The table at the end has means over the
seeds, what each method loses to its own pairs without noise, and how much better transport with the filter is on the
same pairs, tested over questions and training runs together (`runs_bootstrap_test`).
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from datasets import Dataset
from distillation import add_pair_options, add_question_options, add_run, load_questions, make_trainer, read_runs
from harness import table

from hf_optical import OpticalModel, OpticalProcessor, load_bitext
from hf_optical.evaluation import RetrievalEvaluator, runs_bootstrap_test
from hf_optical.transport import SOLVERS


OURS = ("ot", False)
_BLOCKS = 3


def misalign(pairs: Dataset, noise: str, teacher_language: str, seed: int) -> tuple[Dataset, set[int]]:
    """The pairs with some translations exchanged, and the rows of these."""
    kind, _, share = noise.partition(":")
    rows = [dict(translation) for translation in pairs["translation"]]
    count, draws = round(float(share or 0) * len(rows)), random.Random(seed)
    if kind == "shuffle":
        groups = [draws.sample(range(len(rows)), count)]
    elif kind == "shift":
        size, part = count // _BLOCKS, len(rows) // _BLOCKS
        starts = [part * block + draws.randrange(part - size) for block in range(_BLOCKS)]
        groups = [list(range(start, start + size)) for start in starts]
    else:
        groups = []
    for group in groups:
        texts = [rows[place][teacher_language] for place in group]
        for place, text in zip(group, texts[1:] + texts[:1], strict=True):
            rows[place][teacher_language] = text
    lengths = [sum(map(len, row.values())) for row in rows]
    wrong = {place for group in groups for place in group}
    return Dataset.from_dict({"translation": rows, "index": range(len(rows)), "length": lengths}), wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_pair_options(parser)
    parser.add_argument("--pairs", type=int, default=3000, help="the first pairs of the file to train on")
    add_question_options(parser)
    parser.add_argument(
        "--noise", nargs="+", default=["none", "shuffle:0.1", "shuffle:0.3", "shuffle:0.5", "shift:0.3"]
    )
    parser.add_argument("--methods", nargs="+", default=["ot", "greedy", "sentence"])
    parser.add_argument("--filter", nargs="+", choices=["yes", "no"], default=["yes", "no"])
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--bf16", action="store_true", help="train in bf16")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines, one a run")
    args = parser.parse_args()
    torch.set_num_threads(1)

    found = read_runs(args.output)
    cells = list(product(args.noise, args.methods, [each == "no" for each in args.filter]))
    evaluator = None
    for seed, (noise, method, keep) in product(args.seeds, cells):
        name = _name(noise, method, keep, seed)
        if name in found:
            continue
        if evaluator is None:
            data = load_questions(args)
            teacher, processor = OpticalModel.from_pretrained(args.base), OpticalProcessor.from_pretrained(args.base)
            evaluator = RetrievalEvaluator(data, teacher, processor)
        found[name] = {"run": name, **_run(args, evaluator, noise, method, keep, seed)}
        print(name, {key: value for key, value in found[name].items() if key not in ("run", "average_precision")})
        add_run(args.output, found[name])
    _show(args, cells, found)


def _show(args: argparse.Namespace, cells: list[tuple[str, str, bool]], found: Mapping[str, Any]) -> None:
    def runs(noise: str, method: str, keep: bool) -> list[dict[str, Any]]:
        names = [_name(noise, method, keep, seed) for seed in args.seeds]
        return [found[name] for name in names if name in found]

    def mean_of(key: str, own: list[dict[str, Any]]) -> float:
        return mean(run[key] for run in own)

    rows = []
    for noise, method, keep in cells:
        own, clean, ours = runs(noise, method, keep), runs("none", method, keep), runs(noise, *OURS)
        row = [noise, method, "no" if keep else "yes", round(mean_of("left_out", own)), mean_of("map", own)]
        row.append(f"{mean_of('map', clean) - mean_of('map', own):+.3f}" if clean and noise != "none" else "")
        if ours and (method, keep) != OURS:
            p = runs_bootstrap_test(*([run["average_precision"] for run in each] for each in (ours, own)))
            row += [f"{mean_of('map', ours) - mean_of('map', own):+.3f}", f"{p:.3f}"]
        rows.append([*row, "", ""][:8])
    columns = ["noise", "method", "filter", "left out", "MAP", "loses", "transport, filter: better by", "p"]
    print(table(columns, rows))


def _name(noise: str, method: str, keep: bool, seed: int) -> str:
    return f"{noise} {method} {'all' if keep else 'filter'} seed {seed}"


def _run(args: Any, evaluator: RetrievalEvaluator, noise: str, method: str, keep: bool, seed: int) -> dict[str, Any]:
    whole = load_bitext(args.train_file, args.language).select(range(args.pairs))
    pairs, wrong = misalign(whole, noise, "en", seed)
    objective = {"method": "ot", "solver": method} if method in SOLVERS else {"method": method}
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            *(args, evaluator, folder),
            train_dataset=pairs,
            **objective,
            keep_misaligned=keep,
            num_train_epochs=args.epochs,
            seed=seed,
        )
        kept = set(trainer.train_dataset["index"])
        trainer.train()
        trainer.set_language(args.language)
        hits = evaluator.search(trainer.model, trainer.processors[args.language])
    return {
        "map": evaluator.measure(hits)["map"],
        "left_out": len(pairs) - len(kept),
        "left_out_wrong": len(wrong - kept),
        "wrong": len(wrong),
        "average_precision": evaluator.measure_each(hits)["map"],
    }


if __name__ == "__main__":
    main()
