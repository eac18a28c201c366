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

The rivals of transport: `--method greedy`, `sentence`, `code_switch` or `hybrid`.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from accelerate import PartialState
from transformers import HfArgumentParser

from hf_optical import OTDistillationConfig
from hf_optical.training import (
    DataArguments,
    build_trainer,
    load_training_data,
    measure_references,
    questions_text,
    results_text,
    resume_point,
    with_references,
)


DATA = Path(__file__).parent / "data"
DEMO = [
    *("--language", "sw"),
    *("--train_file", str(DATA / "train.jsonl")),
    *("--validation_file", str(DATA / "validation.jsonl")),
    *("--eval_dir", str(DATA / "retrieval")),
    *("--num_train_epochs", "10"),
    *("--bitext_license", "cc0-1.0"),
    "--note",
    "A demonstration: the sentence pairs and the questions are machine-written and not checked by a native speaker. "
    "The results show that training works; they are no evidence of how well Swahili is read.",
]


def main() -> None:
    try:
        data_args, args = parse(sys.argv[1:])
        args.resume_from_checkpoint = resume_point(args)
        data = load_training_data(data_args, args)
        trainer = build_trainer(data_args, args, data)
        before = measure_references(trainer)
    except (OSError, ValueError) as error:
        # Wrong input is reported in one line; later errors are faults, and show where.
        sys.exit(f"error: {error}")
    try:
        trained = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    except FileExistsError as error:  # another run came first
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stop:
        sys.exit(f"\n{stop}" if str(stop) else "\nstopped at once; the last checkpoint is intact")
    # Before the evaluation, which may fail. An internal call does not push.
    trainer.save_model(_internal_call=True)
    trainer.save_state()

    results = with_references(trainer.evaluate(), trainer.references, args.languages)
    trainable = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    trainer.save_metrics("train", {**trained.metrics, "trainable_parameters": trainable, **data.counts})
    trainer.save_metrics("eval", results)
    if args.packs:
        trainer.save_model(_internal_call=True)  # now with its results
    trainer.create_model_card()
    if trainer.is_world_process_zero():
        for language in args.languages:
            print(results_text(results, language, args.languages))
            if language in before:
                print(questions_text(trainer, language, before[language], data_args.show_questions))
        what = "model is" if not args.packs else "language pack is" if len(args.packs) == 1 else "language packs are"
        print(f"\nThe {what} in {args.output_dir}")
    if args.push_to_hub:
        trainer.push_to_hub()
    trainer.accelerator.end_training()  # `Trainer.end` is of transformers 5.23


def parse(argv: list[str]) -> tuple[DataArguments, OTDistillationConfig]:
    """Parse the command line; without data, the embedded default."""
    if not {"--language", "--train_file", "--dataset_name"}.intersection(arg.split("=")[0] for arg in argv):
        argv = DEMO + argv
    data_args, args = HfArgumentParser((DataArguments, OTDistillationConfig)).parse_args_into_dataclasses(argv)
    level = logging.INFO if PartialState().is_main_process else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    return data_args, args


if __name__ == "__main__":
    main()
