"""
What does a pack learn from each source: a dictionary, sentence pairs, both, a related pack, its own translations?

    python benchmarks/sources.py --language sw --dictionary sw-en.txt --train_file ntrex/sw.jsonl.gz \\
        --eval_dir questions/sw --eval_corpus corpus.jsonl.gz --split dev --seeds 1 2 3 --output outputs/sources.jsonl

Each source is measured with its new words alone and after training with the trainer's defaults: on the pairs, on the
pairs and the documents with words switched, or with a dictionary alone on these documents. `--init_pack` adds the
pairs as learned from the pack of another language, and `--monolingual_file` adds back-translation: sentences of plain
text, translated word by word, the half with the lowest transported cost, beside the pairs.

Each line of the output is a run; those that it has already are not repeated. The table at the end has means over the
seeds, and tests of what each row adds to the row of its source before training, or to the pairs, over questions and
training runs together (`runs_bootstrap_test`).
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from distillation import add_pair_options, add_question_options, add_run, load_questions, make_trainer, read_runs
from harness import table

from hf_optical import OpticalModel, OpticalProcessor, load_bitext
from hf_optical.bitext import learn_dictionary, rank_by_cost, read_plain_text
from hf_optical.evaluation import RetrievalEvaluator, runs_bootstrap_test
from hf_optical.retrieval.translation import LexiconTranslator


TEACHER_LANGUAGE = "en"
# Row -> the row that it is compared with.
COMPARED = {
    "dictionary, words only": None,
    "dictionary, trained": "dictionary, words only",
    "pairs, words only": None,
    "pairs, trained": "pairs, words only",
    "pairs, trained with documents": "pairs, trained",
    "both, words only": "pairs, words only",
    "both, trained": "pairs, trained",
    "both, trained with documents": "both, trained",
    "related pack, words only": "pairs, words only",
    "related pack, trained": "pairs, trained",
    "related pack, trained with documents": "related pack, trained",
    "back-translated, trained": "pairs, trained",
}
_LENGTHS = range(30, 300)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_pair_options(parser, pairs_required=False)
    parser.add_argument("--pairs", type=int, help="the first pairs of the file (default: all)")
    parser.add_argument("--dictionary", help="dictionary in MUSE's format")
    parser.add_argument("--init_pack", help="folder or Hub id of another language's pack")
    parser.add_argument("--monolingual_file", help="plain text in the language, to translate")
    parser.add_argument("--sentences", type=int, default=4000, help="sentences of the plain text to translate")
    add_question_options(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--bf16", action="store_true", help="train in bf16")
    parser.add_argument("--rows", nargs="+", choices=list(COMPARED), help="default: all that the sources allow")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines, one a run")
    args = parser.parse_args()
    torch.set_num_threads(1)

    needed = {
        "dictionary": args.dictionary,
        "pairs": args.train_file,
        "both": args.dictionary and args.train_file,
        "related pack": args.init_pack and args.train_file,
        "back-translated": args.monolingual_file and args.train_file,
    }
    rows = [row for row in COMPARED if needed[row.partition(",")[0]] and (args.rows is None or row in args.rows)]
    found = read_runs(args.output)
    runs = {_name(row, seed): (row, seed) for seed, row in product(args.seeds, rows)}
    missing = {name: run for name, run in runs.items() if name not in found}
    if missing:
        teacher, processor = OpticalModel.from_pretrained(args.base), OpticalProcessor.from_pretrained(args.base)
        evaluator = RetrievalEvaluator(load_questions(args), teacher, processor)
        for reference, translated in (("base", False), ("human translations", True)):
            if reference not in found:
                hits = evaluator.search(teacher, processor, translated=translated)
                _add(args.output, found, reference, evaluator, hits)
        for name, (row, seed) in missing.items():
            hits, notes = _run(args, evaluator, row, seed)
            _add(args.output, found, name, evaluator, hits, **notes)
    _show(args, rows, found)


def _name(row: str, seed: int) -> str:
    return f"{row}, seed {seed if 'trained' in row else 'any'}"


def _add(
    output: Path, found: dict[str, Any], name: str, evaluator: RetrievalEvaluator, hits: Any, **notes: Any
) -> None:
    each = evaluator.measure_each(hits)["map"]
    found[name] = {"run": name, **evaluator.measure(hits), **notes, "average_precision": each}
    print(name, round(found[name]["map"], 4), notes, flush=True)
    add_run(output, found[name])


def _run(args: argparse.Namespace, evaluator: RetrievalEvaluator, row: str, seed: int) -> tuple[Any, dict[str, Any]]:
    source, _, state = row.partition(", ")
    pairs = None
    if source != "dictionary":
        pairs = load_bitext(args.train_file, args.language)
        pairs = pairs.select(range(min(args.pairs or len(pairs), len(pairs))))
    made = _back_translated(args, evaluator, pairs, seed) if source == "back-translated" else None
    if made is not None:
        pairs = concatenate_datasets([pairs.select_columns(["translation"]), made])
        lengths = [sum(map(len, row.values())) for row in pairs["translation"]]
        pairs = pairs.add_column("index", range(len(pairs))).add_column("length", lengths)
    settings: dict[str, Any] = {}
    if source in ("dictionary", "both"):
        settings["dictionary"] = [args.dictionary]
    if source == "related pack":
        settings["init_pack"] = args.init_pack
    with tempfile.TemporaryDirectory() as folder:
        documents = pairs is None or state == "trained with documents"
        english = evaluator.dataset.document_texts() if documents else None
        trainer = make_trainer(
            args, evaluator, folder, train_dataset=pairs, english_texts=english, seed=seed, **settings
        )
        if state != "words only":
            trainer.train()
        trainer.set_language(args.language)
        hits = evaluator.search(trainer.model, trainer.processors[args.language])
        words = len(trainer.processors[args.language].tokenizer) - len(evaluator.processor.tokenizer)
    return hits, {"new words": words, "steps": trainer.state.global_step, "made": 0 if made is None else len(made)}


def _back_translated(args: argparse.Namespace, evaluator: RetrievalEvaluator, pairs: Any, seed: int) -> Dataset:
    """Sentences of the plain text with their translations word by word, the half with the lowest transported cost."""
    parts = (
        part.strip() for text in read_plain_text(args.monolingual_file) for part in re.split(r"(?<=[.!?])\s+", text)
    )
    texts = [*dict.fromkeys(part for part in parts if len(part) in _LENGTHS)]
    texts = texts[:: max(1, len(texts) // args.sentences)][: args.sentences]
    learned = learn_dictionary(
        pairs, evaluator.processor.tokenizer, args.language, TEACHER_LANGUAGE, reverse=True, translations=1
    )
    english = LexiconTranslator(learned)(texts)
    rows = [{args.language: own, TEACHER_LANGUAGE: other} for own, other in zip(texts, english, strict=True)]
    made = Dataset.from_dict({"translation": rows})
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(args, evaluator, folder, train_dataset=pairs, seed=seed)
        trainer.train()
        trainer.set_language(args.language)
        ranked = rank_by_cost(
            made,
            trainer.model,
            trainer.processors[args.language],
            evaluator.teacher,
            evaluator.processor,
            args.language,
        )
    return ranked.select(range(len(ranked) // 2, len(ranked))).select_columns(["translation"])


def _show(args: argparse.Namespace, rows: list[str], found: Mapping[str, Any]) -> None:
    def runs(row: str) -> list[dict[str, Any]]:
        names = [_name(row, seed) for seed in args.seeds]
        return [found[name] for name in names if name in found]

    base, ceiling = found["base"]["map"], found["human translations"]["map"]
    lines = [["base", base, "", found["base"]["recall@100"], "", ""]]
    for row in rows:
        if not (own := runs(row)):
            continue
        found_map, recall = (mean(run[key] for run in own) for key in ("map", "recall@100"))
        line = [row, found_map, (found_map - base) / (ceiling - base), recall, "", ""]
        if (other := COMPARED[row]) and (others := runs(other)):
            p = runs_bootstrap_test(*([run["average_precision"] for run in each] for each in (own, others)))
            line[-2:] = [f"{found_map - mean(run['map'] for run in others):+.3f}", f"{p:.3f}"]
        lines.append(line)
    lines.append(["human translations", ceiling, "", found["human translations"]["recall@100"], "", ""])
    print(table(["", "MAP", "gap closed", "recall@100", "adds", "p"], lines))


if __name__ == "__main__":
    main()
