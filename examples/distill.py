"""
Teach a late-interaction retriever a new language from sentence pairs, and measure what it finds.

Without arguments, the embedded default: English-Swahili sentence pairs and questions written for this project.

    accelerate launch examples/distill.py

With your own data, and every field of `TrainingArguments`:

    accelerate launch examples/distill.py --teacher_model ID_OR_PATH --student_model ID_OR_PATH --language ha \
        --train_file train.jsonl.gz --validation_file validation.jsonl.gz --eval_dir BEIR_FOLDER --eval_split dev
"""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from transformers import HfArgumentParser

from hf_optical import (
    OpticalModel,
    OpticalProcessor,
    OTDistillationConfig,
    OTDistillationTrainer,
    RetrievalEvaluator,
    load_beir,
    load_bitext,
)
from hf_optical.bitext import filter_bitext
from hf_optical.errors import DataError
from hf_optical.evaluation import gap_closed
from hf_optical.training.checkpoints import checkpoint_to_resume
from hf_optical.training.distributed import from_main_process
from hf_optical.training.preparation import check_sizes


DATA = Path(__file__).parent / "data"
DEMO = [
    *("--language", "sw"),
    *("--train_file", str(DATA / "train.jsonl")),
    *("--validation_file", str(DATA / "validation.jsonl")),
    *("--eval_dir", str(DATA / "retrieval")),
    *("--num_train_epochs", "10"),
]


@dataclass
class ScriptArguments:
    """What is trained on what."""

    teacher_model: str = field(
        default="sentence-transformers/all-MiniLM-L6-v2",
        metadata={"help": "Folder or Hub id of the teacher, which reads English."},
    )
    student_model: str = field(
        default="sentence-transformers/all-MiniLM-L6-v2",
        metadata={"help": "Folder or Hub id of the student, which learns the language."},
    )
    train_file: str | None = field(default=None, metadata={"help": "Sentence pairs: JSON lines, CSV, TSV, Parquet."})
    validation_file: str | None = field(
        default=None, metadata={"help": "Sentence pairs for `eval_loss`. Default: 5 % of the others, at most 500."}
    )
    dataset_name: str | None = field(default=None, metadata={"help": "Hub dataset, in place of the files."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the Hub dataset."})
    student_column: str | None = field(
        default=None, metadata={"help": "Column of the new language, where there is no `translation` column."}
    )
    teacher_column: str | None = field(default=None, metadata={"help": "Column of the teacher's language, likewise."})
    max_length_ratio: float = field(default=6.0, metadata={"help": "Pairs more unequal than this are dropped."})
    eval_dir: str | None = field(default=None, metadata={"help": "Retrieval set in BEIR layout."})
    eval_corpus: str | None = field(default=None, metadata={"help": "Its corpus file, where the folder holds none."})
    eval_split: str = field(default="test", metadata={"help": "Its split: the name of a file in `qrels/`."})
    query_length: int | None = field(default=None, metadata={"help": "Longest query in tokens."})
    document_length: int | None = field(default=None, metadata={"help": "Longest document in tokens."})
    show_questions: int = field(default=3, metadata={"help": "Questions to print at the end."})


def main() -> None:
    try:
        script, args = parse(sys.argv[1:])
        trainer, results, before = build(script, args)
    except (OSError, ValueError) as error:
        # What is wrong with the input is said in one line; an error further on is a fault, and shows where.
        sys.exit(f"error: {error}")
    try:
        trained = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    except KeyboardInterrupt as stop:
        sys.exit(f"\n{stop}" if str(stop) else "\nstopped at once; the last checkpoint is unharmed")
    trainer.save_model()
    trainer.save_state()

    results |= trainer.evaluate()
    if "ceiling_map" in results:
        results["gap_closed"] = gap_closed(results["zero_shot_map"], results["eval_map"], results["ceiling_map"])
    trainable = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    trainer.save_metrics("train", {**trained.metrics, "trainable_parameters": trainable, **trainer.details["counts"]})
    trainer.save_metrics("eval", results)
    trainer.results = results
    trainer.create_model_card()
    if trainer.is_world_process_zero():
        report(results)
        if before:
            show_questions(trainer, before, script.show_questions)
        print(f"\nThe {'model' if args.train_all_weights else 'language pack'} is in {args.output_dir}")
    if args.push_to_hub:
        trainer.push_to_hub()
    trainer.end()


def parse(argv: list[str]) -> tuple[ScriptArguments, OTDistillationConfig]:
    """The arguments, and the checkpoint to go on from; looked at before anything takes time."""
    if not {"--language", "--train_file", "--dataset_name"}.intersection(arg.split("=")[0] for arg in argv):
        argv = DEMO + argv
    script, args = HfArgumentParser((ScriptArguments, OTDistillationConfig)).parse_args_into_dataclasses(argv)
    level = logging.INFO if PartialState().is_main_process else logging.ERROR
    logging.basicConfig(level=level, format="%(message)s")
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    args.resume_from_checkpoint = from_main_process(
        lambda: checkpoint_to_resume(args.output_dir, args.resume_from_checkpoint)
    )
    return script, args


def build(script: ScriptArguments, args: OTDistillationConfig) -> tuple[OTDistillationTrainer, dict, dict]:
    """The trainer; what the untrained student and the ceiling score; what the untrained student finds."""
    train_pairs, validation_pairs, counts = load_pairs(script, args)
    dataset = load_beir(script.eval_dir, script.eval_split, script.eval_corpus) if script.eval_dir else None

    lengths = {"query_length": script.query_length, "document_length": script.document_length}
    lengths = {name: length for name, length in lengths.items() if length is not None}
    teacher_processor = OpticalProcessor.from_pretrained(script.teacher_model, **lengths)
    student_processor = OpticalProcessor.from_pretrained(script.student_model, **lengths)
    teacher = OpticalModel.from_pretrained(script.teacher_model).to(args.device)
    student = OpticalModel.from_pretrained(script.student_model).to(args.device)
    check_sizes(student, teacher)

    evaluator, before, results = None, {}, {}
    if dataset is not None:
        evaluator = RetrievalEvaluator(dataset, teacher, teacher_processor, show_progress=True)
        before = from_main_process(lambda: evaluator.search(student, student_processor))
        results = prefixed("zero_shot_", evaluator.measure(before))
        if evaluator.has_translations:
            ceiling = from_main_process(lambda: evaluator(teacher, teacher_processor, translated=True))
            results |= prefixed("ceiling_", ceiling)

    trainer = OTDistillationTrainer(
        model=student,
        teacher=teacher,
        args=args,
        train_dataset=train_pairs,
        eval_dataset=validation_pairs,
        processing_class=student_processor,
        teacher_processing_class=teacher_processor,
        retrieval_evaluator=evaluator,
    )
    source = script.train_file or script.dataset_name
    trainer.details = {"pairs": len(train_pairs), "bitext": Path(source).name, "counts": counts}
    if dataset is not None:
        trainer.details["eval_name"] = dataset.name
    return trainer, results, before


def load_pairs(script: ScriptArguments, args: OTDistillationConfig):
    """Training pairs, validation pairs, and how many were dropped."""
    source = script.train_file or script.dataset_name
    if source is None:
        raise DataError("there are no sentence pairs; pass --train_file or --dataset_name")
    columns = (
        (script.student_column, script.teacher_column) if script.student_column or script.teacher_column else None
    )
    if columns and None in columns:
        raise DataError("--student_column and --teacher_column go together; pass both")
    options = {"config_name": script.dataset_config_name, "columns": columns}

    def pairs(name: str, split: str):
        loaded = load_bitext(name, args.language, args.teacher_language, split=split, **options)
        return filter_bitext(loaded, args.language, args.teacher_language, max_length_ratio=script.max_length_ratio)

    train, counts = pairs(source, "train")
    logging.info("Sentence pairs: %s", counts)
    if script.validation_file is not None:
        validation, _ = pairs(script.validation_file, "validation")
    else:
        held_out = min(500, max(1, len(train) // 20))
        split = train.train_test_split(test_size=held_out, seed=args.data_seed or args.seed)
        train, validation = split["train"], split["test"]
    return train, validation, {f"pairs_{name}": count for name, count in vars(counts).items()}


def prefixed(prefix: str, metrics: dict[str, float]) -> dict[str, float]:
    return {prefix + name: value for name, value in metrics.items()}


def report(results: dict[str, float]) -> None:
    measures = [name.removeprefix("zero_shot_") for name in results if name.startswith("zero_shot_")]
    if not measures:
        return
    print("\n" + " " * 28 + "".join(f"{measure:>12}" for measure in measures))
    for label, prefix in (("before", "zero_shot_"), ("after", "eval_"), ("human translation, teacher", "ceiling_")):
        values = [results.get(prefix + measure) for measure in measures]
        if None not in values:
            print(f"{label:28}" + "".join(f"{value:12.3f}" for value in values))
    if results.get("gap_closed") is not None:
        print(f"{'gap closed':28}{results['gap_closed']:12.3f}")


def show_questions(trainer: OTDistillationTrainer, before: dict, count: int) -> None:
    """Prints a few questions whose first passage changed, right ones first."""
    evaluator = trainer.retrieval_evaluator
    dataset = evaluator.dataset
    after = evaluator.search(
        trainer.model, trainer.processing_class, top_k=1, query_ids=list(dataset.queries)[: 10 * count]
    )

    def right(hits: dict, query_id: str) -> bool:
        return dataset.qrels[query_id].get(hits[query_id][0].document, 0) > 0

    changed = [query for query in after if before[query][0].document != after[query][0].document]
    changed.sort(key=lambda query: right(after, query), reverse=True)
    for query_id in changed[:count]:
        query = dataset.queries[query_id]
        print(f"\n{query.text}" + (f"  ({query.translation})" if query.translation else ""))
        for label, hits in (("before", before), ("after", after)):
            document = dataset.corpus[hits[query_id][0].document]
            mark = "+" if right(hits, query_id) else "-"
            print(f"  {label:>6} {mark} {document.title}: {document.text[:90]}...")


if __name__ == "__main__":
    main()
