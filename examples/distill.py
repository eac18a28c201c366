"""
Teach a late-interaction retriever a new language from sentence pairs, and measure what it finds.

Without arguments, the embedded default: English-Swahili sentence pairs and questions written for this project.

    accelerate launch examples/distill.py

With your own data, and every field of `TrainingArguments`:

    accelerate launch examples/distill.py --teacher_model ID_OR_PATH --student_model ID_OR_PATH --language ha \
        --train_file train.jsonl.gz --validation_file validation.jsonl.gz --eval_dir BEIR_FOLDER --eval_split dev

Several languages in one run, a pack each: files, folders and columns in the same order, or one for all.

    accelerate launch examples/distill.py --language ha ig yo --train_file ha.jsonl.gz ig.jsonl.gz yo.jsonl.gz \
        --eval_dir questions/ha questions/ig questions/yo --eval_corpus corpus.jsonl.gz --sampling_temperature 2

A dictionary (MUSE's format) adds words to those of the sentence pairs, or does without any:

    accelerate launch examples/distill.py --language bem --dictionary bem-en.txt --eval_dir BEIR_FOLDER

The documents of `--eval_dir`, or of `--english_file`, join the pairs, with words switched into the language.

Other objectives than transport: `--method greedy`, `sentence`, `code_switch`, `ranking`, `hybrid` or `ot_ranking`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hf_optical.training import build_run, evaluate_and_save, parse_run, publish, report, train_and_save


DATA = Path(__file__).parent / "data"
DEMO = [
    *("--language", "sw"),
    *("--train_file", str(DATA / "train.jsonl")),
    *("--validation_file", str(DATA / "validation.jsonl")),
    *("--eval_dir", str(DATA / "retrieval")),
    *("--num_train_epochs", "10"),
    # The passages would double the time.
    *("--switched_sentences", "0"),
    *("--bitext_license", "cc0-1.0"),
    "--note",
    "A demonstration: the sentence pairs and the questions are machine-written and not checked by a native speaker. "
    "The results show that training works; they are no evidence of how well Swahili is read.",
]


def main() -> None:
    argv = sys.argv[1:]
    own = {"--language", "--train_file", "--dataset_name", "--dictionary"}
    if not own.intersection(arg.split("=")[0] for arg in argv):
        argv = DEMO + argv
    run = build_run(*parse_run(argv))
    train_and_save(run)
    results = evaluate_and_save(run)
    report(run, results)
    publish(run)


if __name__ == "__main__":
    main()
