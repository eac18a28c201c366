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
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from accelerate import PartialState
from huggingface_hub import HfApi
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
from hf_optical.bitext import filter_bitext, load_triples
from hf_optical.errors import DataError
from hf_optical.evaluation import RetrievalDataset, gap_closed
from hf_optical.evaluation.results import of_language, over_languages
from hf_optical.storage.fetching import public_name
from hf_optical.training.checkpoints import checkpoint_to_resume
from hf_optical.training.distributed import from_main_process
from hf_optical.training.preparation import check_sizes, read_dictionaries


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
    train_file: list[str] | None = field(
        default=None, metadata={"help": "Sentence pairs: JSON lines, CSV, TSV, Parquet. One file a language, or one."}
    )
    validation_file: list[str] | None = field(
        default=None, metadata={"help": "Sentence pairs for `eval_loss`. Default: 5 % of the others, at most 500."}
    )
    dataset_name: list[str] | None = field(default=None, metadata={"help": "Hub dataset, in place of the files."})
    dataset_config_name: list[str] | None = field(
        default=None, metadata={"help": "Configuration of the Hub dataset. One a language, or one."}
    )
    student_column: list[str] | None = field(
        default=None, metadata={"help": "Column of the new language, where there is no `translation` column."}
    )
    teacher_column: str | None = field(default=None, metadata={"help": "Column of the teacher's language, likewise."})
    max_length_ratio: float = field(default=6.0, metadata={"help": "Pairs more unequal than this are dropped."})
    triples_file: str | None = field(
        default=None,
        metadata={"help": "English queries with relevant documents, for code switching. Default: English sentences."},
    )
    eval_dir: list[str] | None = field(
        default=None, metadata={"help": "Retrieval set in BEIR layout. One a language, or one."}
    )
    eval_corpus: str | None = field(default=None, metadata={"help": "Its corpus file, where the folder holds none."})
    eval_split: list[str] = field(
        default_factory=lambda: ["test"],
        metadata={"help": "Its split: the name of a file in `qrels/`. One a language, or one."},
    )
    query_length: int | None = field(default=None, metadata={"help": "Longest query in tokens."})
    document_length: int | None = field(default=None, metadata={"help": "Longest document in tokens."})
    bitext_license: str | None = field(
        default=None,
        metadata={"help": "Licence of the sentence pairs, for the card. Default: what the Hub dataset says."},
    )
    license: str | None = field(
        default=None, metadata={"help": "Licence of what is trained, for the card: an identifier such as apache-2.0."}
    )
    note: str | None = field(default=None, metadata={"help": "A sentence that the card tells first."})
    show_questions: int = field(default=3, metadata={"help": "Questions to print at the end."})


def main() -> None:
    try:
        script, args = parse(sys.argv[1:])
        trainer, before = build(script, args)
    except (OSError, ValueError) as error:
        # What is wrong with the input is said in one line; an error further on is a fault, and shows where.
        sys.exit(f"error: {error}")
    try:
        trained = trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    except FileExistsError as error:  # another run came first
        sys.exit(f"error: {error}")
    except KeyboardInterrupt as stop:
        sys.exit(f"\n{stop}" if str(stop) else "\nstopped at once; the last checkpoint is unharmed")
    # Before the evaluation, which may fail. An internal call does not push.
    trainer.save_model(_internal_call=True)
    trainer.save_state()

    results = with_gaps(flat(trainer.references) | trainer.evaluate(), args.languages)
    trainable = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    counts = Counter()
    for told in trainer.details.values():
        counts.update(told["counts"])
    trainer.save_metrics("train", {**trained.metrics, "trainable_parameters": trainable, **counts})
    trainer.save_metrics("eval", results)
    if args.packs:
        trainer.save_model(_internal_call=True)  # now with its results
    trainer.create_model_card()
    if trainer.is_world_process_zero():
        for language in args.languages:
            report(results, language, args.languages)
            if before:
                show_questions(trainer, language, before[language], script.show_questions)
        what = "model" if args.train_all_weights else "language pack" if len(args.packs) == 1 else "language packs"
        print(f"\nThe {what} {'is' if len(args.packs) < 2 else 'are'} in {args.output_dir}")
    if args.push_to_hub:
        trainer.push_to_hub()
    trainer.accelerator.end_training()  # `Trainer.end` is of transformers 5.23


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


def build(script: ScriptArguments, args: OTDistillationConfig) -> tuple[OTDistillationTrainer, dict]:
    """The trainer, and what the untrained student finds, by language."""
    train_pairs, validation_pairs, details = load_pairs(script, args)
    triples = load_triples(script.triples_file) if script.triples_file else None
    # The trainer reads them again; here they are looked at before anything takes time.
    read_dictionaries(args, train_pairs if triples is None else dict.fromkeys(args.languages, triples))
    folders = for_each(args.languages, "eval_dir", script.eval_dir) if script.eval_dir else {}
    splits = for_each(args.languages, "eval_split", script.eval_split)
    datasets = {code: load_beir(folder, splits[code], script.eval_corpus) for code, folder in folders.items()}

    lengths = {"query_length": script.query_length, "document_length": script.document_length}
    lengths = {name: length for name, length in lengths.items() if length is not None}
    teacher_processor = OpticalProcessor.from_pretrained(script.teacher_model, **lengths)
    student_processor = OpticalProcessor.from_pretrained(script.student_model, **lengths)
    teacher = OpticalModel.from_pretrained(script.teacher_model).to(args.device)
    student = OpticalModel.from_pretrained(script.student_model).to(args.device)
    check_sizes(student, teacher)

    evaluators = build_evaluators(datasets, teacher, teacher_processor)
    before, zero_shot, ceiling = {}, {}, {}
    for language, evaluator in evaluators.items():
        before[language] = from_main_process(lambda it=evaluator: it.search(student, student_processor))
        zero_shot[language] = evaluator.measure(before[language])
        if evaluator.has_translations:
            ceiling[language] = from_main_process(lambda it=evaluator: it(teacher, teacher_processor, translated=True))

    trainer = OTDistillationTrainer(
        model=student,
        teacher=teacher,
        args=args,
        train_dataset=train_pairs,
        eval_dataset=validation_pairs,
        processing_class=student_processor,
        teacher_processing_class=teacher_processor,
        retrieval_evaluator=evaluators or None,
        triples=triples,
    )
    trainer.details = details
    trainer.references = {"zero_shot": zero_shot, "ceiling": ceiling}
    return trainer, before


def build_evaluators(
    datasets: dict[str, RetrievalDataset], teacher: OpticalModel, processor: OpticalProcessor
) -> dict[str, RetrievalEvaluator]:
    """An evaluator for each language; the teacher reads a corpus that they share once."""
    evaluators: dict[str, RetrievalEvaluator] = {}
    for language, dataset in datasets.items():
        vectors = None
        # The main process alone searches.
        if PartialState().is_main_process:
            same = (other for other in evaluators.values() if other.dataset.corpus == dataset.corpus)
            vectors = next((other.document_vectors for other in same), None)
        evaluators[language] = RetrievalEvaluator(
            dataset, teacher, processor, document_vectors=vectors, show_progress=True
        )
    return evaluators


def load_pairs(script: ScriptArguments, args: OTDistillationConfig) -> tuple[dict, dict, dict]:
    """Training pairs, validation pairs, and what is told of them, by language."""
    languages = args.languages
    sources = for_each(languages, "train_file", script.train_file or script.dataset_name)
    validation_files = for_each(languages, "validation_file", script.validation_file)
    configs = for_each(languages, "dataset_config_name", script.dataset_config_name)
    columns = for_each(languages, "student_column", script.student_column)
    if None in sources.values():
        raise DataError("there are no sentence pairs; pass --train_file or --dataset_name")
    if script.license and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", script.license):
        raise DataError(
            f"--license {script.license!r} is no identifier of a licence; pass one of "
            "https://huggingface.co/docs/hub/repositories-licenses, such as apache-2.0 or cc-by-4.0"
        )
    if (script.student_column is None) != (script.teacher_column is None):
        raise DataError("--student_column and --teacher_column go together; pass both")

    def pairs(language: str, name: str, split: str):
        loaded = load_bitext(
            name,
            language,
            args.teacher_language,
            config_name=configs[language],
            split=split,
            columns=(columns[language], script.teacher_column) if script.teacher_column else None,
        )
        return filter_bitext(loaded, language, args.teacher_language, max_length_ratio=script.max_length_ratio)

    train, validation, details = {}, {}, {}
    for language, source in sources.items():
        train[language], counts = pairs(language, source, "train")
        logging.info("Sentence pairs for %s: %s", language, counts)
        if validation_files[language] is not None:
            validation[language], _ = pairs(language, validation_files[language], "validation")
        else:
            held_out = min(500, max(1, len(train[language]) // 20))
            split = train[language].train_test_split(test_size=held_out, seed=args.data_seed or args.seed)
            train[language], validation[language] = split["train"], split["test"]
        told = {"bitext_license": script.bitext_license, "license": script.license, "note": script.note}
        if script.bitext_license is None and not Path(source).exists():
            told["bitext_license"] = hub_license(source)
        details[language] = {
            "bitext": public_name(source),
            "counts": {f"pairs_{name}": count for name, count in vars(counts).items()},
            **{name: value for name, value in told.items() if value},
        }
    return train, validation, details


def hub_license(dataset: str) -> str | None:
    """The licence that a dataset states on the Hub, if it states one."""
    try:
        card = HfApi().dataset_info(dataset).card_data
    except Exception as error:  # of whatever kind: for want of a licence nothing is stopped
        logging.info("The licence of %s is not known (%s); name it with --bitext_license", dataset, error)
        return None
    stated = card.license if card else None
    return ", ".join(stated) if isinstance(stated, list) else stated


def for_each(languages: list[str], option: str, values: list[str] | None) -> dict[str, str | None]:
    """Language -> its value of an option that has one for each language, one for all, or none."""
    values = values or [None]
    if len(values) not in (1, len(languages)):
        raise DataError(f"--{option} has {len(values)} values for {len(languages)} languages; pass one for each")
    return dict(zip(languages, values * len(languages), strict=False))


def flat(references: dict[str, dict[str, dict[str, float]]]) -> dict[str, float]:
    """What the untrained student and the ceiling reached, as `zero_shot_map`, `ceiling_map` and so on."""
    return {name: value for key, own in references.items() for name, value in over_languages(own, f"{key}_").items()}


def with_gaps(results: dict[str, float], languages: list[str]) -> dict[str, float]:
    """The results, and of each language and in the mean the share of the gap that was closed."""
    gaps = {}
    for language in languages:
        own = of_language(results, language) if len(languages) > 1 else results
        if "ceiling_map" in own:
            gaps[language] = {"gap_closed": gap_closed(own["zero_shot_map"], own["eval_map"], own["ceiling_map"])}
    return results | over_languages(gaps)


def report(results: dict[str, float], language: str, languages: list[str]) -> None:
    own = of_language(results, language) if len(languages) > 1 else results
    measures = [name.removeprefix("zero_shot_") for name in own if name.startswith("zero_shot_")]
    if not measures:
        return
    print(f"\n{language:28}" + "".join(f"{measure:>12}" for measure in measures))
    for label, prefix in (("before", "zero_shot_"), ("after", "eval_"), ("human translation, teacher", "ceiling_")):
        values = [own.get(prefix + measure) for measure in measures]
        if None not in values:
            print(f"{label:28}" + "".join(f"{value:12.3f}" for value in values))
    if own.get("gap_closed") is not None:
        print(f"{'gap closed':28}{own['gap_closed']:12.3f}")


def show_questions(trainer: OTDistillationTrainer, language: str, before: dict, count: int) -> None:
    """Prints a few questions whose first passage changed, right ones first."""
    evaluator = trainer.retrieval_evaluators[language]
    dataset = evaluator.dataset
    trainer.set_language(language)
    after = evaluator.search(
        trainer.model, trainer.processors[language], top_k=1, query_ids=list(dataset.queries)[: 10 * count]
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
