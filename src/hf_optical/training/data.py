"""Training data from files or the Hub: sentence pairs and their details for the card, triples and test sets."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import HfApi

from ..bitext import filter_bitext, load_bitext, load_triples, read_plain_text
from ..bitext.sources import READERS
from ..errors import DataError
from ..evaluation import RetrievalDataset, load_beir
from ..index.documents import NAME_COLUMNS, read_documents
from ..options import option
from ..retrieval.opening import DEFAULT_BASE
from ..storage.data_files import file_ending, read_lines
from ..storage.fetching import public_name
from .config import OTDistillationConfig


logger = logging.getLogger(__name__)


@dataclass
class DataArguments:
    """
    Models and data of a run, as options of a command line. Lists have one value for each language, or one for all.

    The `help` of each field describes it.
    """

    teacher_model: str | None = option(
        None, "Folder or Hub id of the teacher, which reads English and encodes the index. Default: the student."
    )
    student_model: str | None = option(
        None, f"Folder or Hub id of the student, which learns the language. Default: the teacher, or {DEFAULT_BASE}."
    )
    train_file: list[str] | None = option(
        None, "Sentence pairs: JSON lines, CSV, TSV, Parquet. One file a language, or one."
    )
    validation_file: list[str] | None = option(
        None, "Sentence pairs for `eval_loss`. Default: a twentieth of the others, up to 500."
    )
    dataset_name: list[str] | None = option(None, "Hub dataset, in place of the files.")
    dataset_config_name: list[str] | None = option(None, "Configuration of the Hub dataset. One a language, or one.")
    student_column: list[str] | None = option(None, "Column of the new language, if there is no `translation` column.")
    teacher_column: str | None = option(None, "Column of the teacher's language, likewise.")
    english_file: str | None = option(
        None,
        "English texts to train on with words switched: documents as for `hf-optical index`, or one text a line. "
        "Default: the documents of the retrieval set.",
    )
    monolingual_file: list[str] | None = option(
        None, "Plain text in the new language, a sentence or paragraph a line. One a language, or one."
    )
    max_length_ratio: float = option(6.0, "Maximum ratio of the lengths of a pair.")
    triples_file: str | None = option(
        None, "English queries with relevant documents, for code switching. Default: English sentences."
    )
    eval_dir: list[str] | None = option(None, "Retrieval set in BEIR layout. One a language, or one.")
    eval_corpus: str | None = option(None, "Its corpus file, if the folder has none.")
    eval_split: list[str] = field(
        default_factory=lambda: ["test"],
        metadata={"help": "Its split: the name of a file in `qrels/`. One a language, or one."},
    )
    query_length: int | None = option(None, "Maximum query length in tokens.")
    document_length: int | None = option(None, "Maximum document length in tokens.")
    bitext_license: str | None = option(
        None, "Licence of the sentence pairs, for the card. Default: that of the Hub dataset."
    )
    dictionary_license: str | None = option(None, "Licence of the dictionaries, for the card.")
    english_license: str | None = option(None, "Licence of the English texts with words switched, for the card.")
    monolingual_license: str | None = option(None, "Licence of the plain text, for the card.")
    license: str | None = option(None, "Licence of the trained pack, for the card: an identifier such as apache-2.0.")
    note: str | None = option(None, "A sentence at the top of the card.")
    show_questions: int = option(3, "Number of questions to print at the end.")

    def __post_init__(self) -> None:
        self.student_model = self.student_model or self.teacher_model or DEFAULT_BASE
        self.teacher_model = self.teacher_model or self.student_model

    @property
    def lengths(self) -> dict[str, Any]:
        """The lengths that are given, as arguments of [`OpticalProcessor`]."""
        lengths = {"query_length": self.query_length, "document_length": self.document_length}
        return {name: length for name, length in lengths.items() if length is not None}


@dataclass
class TrainingData:
    """
    Language -> data of each kind.

    Args:
        train (`dict[str, Dataset]`), validation (`dict[str, Dataset]`): sentence pairs.
        details (`dict[str, dict]`): what a card says of them, as in [`write_card`].
        counts (`dict[str, int]`): how many pairs were kept and dropped, over all languages.
        retrieval (`dict[str, RetrievalDataset]`): test sets; empty if there are none.
        triples (`Dataset`, *optional*): English queries with documents.
        monolingual (`dict[str, list[str]]`): plain text in the language.
        english (`list[str]`, *optional*): English texts to train on with words switched.
    """

    train: dict[str, Dataset]
    validation: dict[str, Dataset]
    details: dict[str, dict[str, Any]]
    counts: dict[str, int]
    retrieval: dict[str, RetrievalDataset]
    triples: Dataset | None = None
    english: list[str] | None = None
    monolingual: dict[str, list[str]] = field(default_factory=dict)


def load_training_data(data: DataArguments, args: OTDistillationConfig) -> TrainingData:
    """
    Load everything that the arguments name.

    Raises:
        DataError: a file is missing or damaged, or the arguments do not fit together.
    """
    if data.license and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", data.license):
        raise DataError(
            f"--license must be an identifier from https://huggingface.co/docs/hub/repositories-licenses, such as "
            f"apache-2.0 or cc-by-4.0, got {data.license!r}"
        )
    if (data.student_column is None) != (data.teacher_column is None):
        raise DataError("--student_column and --teacher_column must be passed together")
    if data.train_file and data.dataset_name:
        raise DataError("--train_file and --dataset_name must not be passed together; leave one of them out")
    sources = for_each(args.languages, "train_file", data.train_file or data.dataset_name)
    if None in sources.values():
        if args.dictionary is None:
            raise DataError("there are no sentence pairs; pass --train_file, --dataset_name or --dictionary")
        sources = {}
    validation_files = for_each(args.languages, "validation_file", data.validation_file)
    loaded = TrainingData({}, {}, {}, {}, load_retrieval(data, args))
    for language, file in ({} if sources else validation_files).items():
        if file is not None:
            loaded.validation[language], _ = _pairs(data, args, language, file, "validation")
    for language, source in sources.items():
        pairs, counts = _pairs(data, args, language, source, "train")
        if validation_files[language] is not None:
            validation, _ = _pairs(data, args, language, validation_files[language], "validation")
        else:
            pairs, validation = hold_out(pairs, args.sampling_seed)
            if not len(validation):
                raise DataError(
                    f"there is only one sentence pair for {language!r}, of which none can be held out; pass more, or "
                    "--validation_file"
                )
        loaded.train[language], loaded.validation[language] = pairs, validation
        for name, count in vars(counts).items():
            loaded.counts[f"pairs_{name}"] = loaded.counts.get(f"pairs_{name}", 0) + count
        known = {
            "bitext": public_name(source),
            "bitext_license": data.bitext_license or (None if Path(source).exists() else hub_license(source)),
        }
        loaded.details[language] = {name: value for name, value in known.items() if value}
    english = _load_english(data, args, loaded)
    for language in args.languages:
        given = {"license": data.license, "note": data.note, "dictionary_license": data.dictionary_license}
        given |= english
        loaded.details.setdefault(language, {}).update({name: value for name, value in given.items() if value})
    for language, file in for_each(args.languages, "monolingual_file", data.monolingual_file).items():
        if file is not None:
            loaded.monolingual[language] = read_plain_text(file)
            known = {"monolingual": public_name(file), "monolingual_license": data.monolingual_license}
            loaded.details[language] |= {name: value for name, value in known.items() if value}
    if data.triples_file:
        loaded.triples = load_triples(data.triples_file)
    return loaded


def _load_english(data: DataArguments, args: OTDistillationConfig, loaded: TrainingData) -> dict[str, str | None]:
    """Load the English texts to switch words in; return what a card says of them."""
    if not args.switched_sentences:
        if data.english_file:
            raise DataError("--english_file has no use with --switched_sentences 0; leave one of them out")
        return {}
    if data.english_file:
        loaded.english = read_english(data.english_file)
        source = public_name(data.english_file)
    elif loaded.retrieval:
        # The same corpus is usually that of all languages.
        texts = (text for dataset in loaded.retrieval.values() for text in dataset.document_texts())
        loaded.english = list(dict.fromkeys(texts))
        source = f"the documents of {', '.join(dict.fromkeys(each.name for each in loaded.retrieval.values()))}"
    else:
        return {}
    return {"english": source, "english_license": data.english_license}


def read_english(file: str | os.PathLike) -> list[str]:
    """Read English texts: documents in any form that [`read_documents`] takes, or plain text, one a line."""
    path = Path(file)
    if path.is_file() and file_ending(path) not in (*READERS, ".zip"):
        return [text for _, text in read_lines(path)]
    try:
        return [document.full_text for document in read_documents(file)]
    except DataError as error:
        raise DataError(str(error).replace(NAME_COLUMNS, "call the column of the texts `text`")) from error


def load_retrieval(data: DataArguments, args: OTDistillationConfig) -> dict[str, RetrievalDataset]:
    """Language -> its test set; empty if no folder is named."""
    splits = for_each(args.languages, "eval_split", data.eval_split)
    folders = for_each(args.languages, "eval_dir", data.eval_dir) if data.eval_dir else {}
    return {language: load_beir(folder, splits[language], data.eval_corpus) for language, folder in folders.items()}


def _pairs(
    data: DataArguments, args: OTDistillationConfig, language: str, source: str, split: str
) -> tuple[Dataset, Any]:
    configs = for_each(args.languages, "dataset_config_name", data.dataset_config_name)
    columns = for_each(args.languages, "student_column", data.student_column)
    pairs = load_bitext(
        source,
        language,
        args.teacher_language,
        config_name=configs[language],
        split=split,
        columns=(columns[language], data.teacher_column) if data.teacher_column else None,
    )
    pairs, counts = filter_bitext(pairs, language, args.teacher_language, max_length_ratio=data.max_length_ratio)
    logger.info("%s sentence pairs for %s: %s", split.capitalize(), language, counts)
    return pairs, counts


def hold_out(pairs: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Split off 5 % of the pairs for evaluation, at least one and at most 500; none of a single pair."""
    if len(pairs) < 2:
        return pairs, pairs.select([])
    split = pairs.train_test_split(test_size=min(500, max(1, len(pairs) // 20)), seed=seed)
    return split["train"], split["test"]


def hub_license(dataset: str) -> str | None:
    """The licence that a dataset states on the Hub, if it states one."""
    try:
        card = HfApi().dataset_info(dataset).card_data
    except Exception as error:  # a run must not fail because its licence is unknown
        logger.info("The licence of %s is unknown (%s); pass --bitext_license.", dataset, error)
        return None
    stated = card.license if card else None
    return ", ".join(stated) if isinstance(stated, list) else stated


def for_each(languages: list[str], option: str, values: list[Any] | None) -> dict[str, Any]:
    """Language -> its value of an option that has one value for each language, one for all, or none."""
    given: list[Any] = list(values or [None])
    if len(given) not in (1, len(languages)):
        raise DataError(f"--{option} must have one value for each of {len(languages)} languages, got {len(given)}")
    return dict(zip(languages, given * len(languages), strict=False))
