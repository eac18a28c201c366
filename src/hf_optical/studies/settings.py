"""Settings of a study: training data, test sets, methods and what is varied."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationInfo,
    WrapValidator,
    create_model,
)

from ..bitext import filter_bitext, load_bitext
from ..evaluation import RetrievalDataset, load_beir, retrieval_metrics
from ..evaluation.benchmarks import from_bitext, load_benchmark
from ..languages.strength import check_strength
from ..training import OTDistillationConfig


if TYPE_CHECKING:
    from datasets import Dataset

TEACHER_LANGUAGE = "en"
# `test_strength` of a method whose packs choose their strength by the documents of each test set, without judgements.
TUNED = "tuned"
MEASURES = ["AP", "RR@10", "nDCG@10", "R@100"]
# Seed of pools, query samples and perturbations, so that every method answers the same queries.
SAMPLE_SEED = 0

# Training arguments that the study sets itself. Hub arguments are among them because the file is published.
SET_BY_STUDY = set(
    "cache_teacher disable_tqdm do_eval do_predict do_train eval_strategy hub_always_push hub_model_id"
    " hub_private_repo hub_revision hub_strategy hub_token language load_best_model_at_end logging_strategy output_dir"
    " push_to_hub remove_unused_columns report_to resume_from_checkpoint save_strategy seed teacher_cache_dir".split()
)
TRAINING_KEYS = {f.name for f in dataclasses.fields(OTDistillationConfig) if f.init} - SET_BY_STUDY
# Must be mappings, as transformers would open a string as a file.
_MAPPINGS = ("accelerator_config", "deepspeed", "fsdp_config", "parallelism_config")


# Types of the entries of a study's file. The validation context is the data folder.


def _as_written(value: Any, check: Any) -> Any:
    check(value)  # an `int` stays one, as the keys of finished cells depend on it
    return value


def _data_path(path: str | Path, info: ValidationInfo) -> Path:
    return (info.context or Path()) / path


def _model_name(name: str, info: ValidationInfo) -> str:
    folder = _data_path(name, info)
    return str(folder) if folder.is_dir() else name


def _distinct_languages(codes: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(codes)) < len(codes):
        raise ValueError("a language is listed twice")
    return codes


def _known_measures(measures: list[str]) -> list[str]:
    retrieval_metrics({"q": {"d": 1}}, {}, measures)
    return measures


def _known_strength(value: Any) -> Any:
    return value if value == TUNED else check_strength(value)


DataPath = Annotated[Path, Field(strict=False), AfterValidator(_data_path)]
DataFile = Annotated[str, AfterValidator(lambda path, info: str(_data_path(path, info)))]
ModelName = Annotated[str, AfterValidator(_model_name)]
Number = Annotated[float, Field(strict=False), WrapValidator(_as_written)]
Strength = Annotated[float, Field(gt=0, le=1), WrapValidator(_as_written)]
Languages = Annotated[tuple[str, ...], Field(strict=False, min_length=1), AfterValidator(_distinct_languages)]
Distinct = AfterValidator(lambda values: list(dict.fromkeys(values)))
Text = Annotated[
    str, BeforeValidator(lambda text: "\n\n".join(map(str, text)) if isinstance(text, list) else str(text).strip())
]


class Settings(BaseModel):
    """Entries of a study's file, without conversions and with no other keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TestSource(Settings):
    """
    Queries and documents of one test set in one language.

    Attributes:
        pool (`int`, *optional*): number of documents to sample, in addition to the relevant ones.
        queries (`int`, *optional*): number of queries to sample.
    """

    __test__: ClassVar[bool] = False  # not a pytest class
    kind: ClassVar[str]

    pool: PositiveInt | None = None
    queries: PositiveInt | None = None

    def files(self) -> list[Path]:
        """Files to read, each possibly with `.gz` appended."""
        return []

    def names(self) -> list[str | None]:
        """What identifies the test set in addition to its files."""
        return []

    def load(self, language: str) -> RetrievalDataset:
        raise NotImplementedError


class FolderTest(TestSource):
    """A folder in BEIR layout. `corpus` is the corpus file, if it is not in the folder."""

    kind = "folder"
    folder: DataPath
    split: str = "test"
    corpus: DataPath | None = None

    def files(self) -> list[Path]:
        corpus = self.corpus or self.folder / "corpus.jsonl"
        return [self.folder / "queries.jsonl", self.folder / "qrels" / f"{self.split}.tsv", corpus]

    def load(self, language: str) -> RetrievalDataset:
        return load_beir(self.folder, self.split, self.corpus)


class BitextTest(TestSource):
    """A file of sentence pairs, where each sentence is a query for its translation."""

    kind = "bitext"
    bitext: DataPath

    def files(self) -> list[Path]:
        return [self.bitext]

    def load(self, language: str) -> RetrievalDataset:
        return from_bitext(load_pairs(self.bitext, language), language, TEACHER_LANGUAGE)


class BenchmarkTest(TestSource):
    """A public benchmark of [`~hf_optical.evaluation.benchmarks.load_benchmark`]."""

    kind = "benchmark"
    benchmark: str
    split: str | None = None
    document_language: str | None = None

    def names(self) -> list[str | None]:
        return [self.benchmark, self.split, self.document_language]

    def load(self, language: str) -> RetrievalDataset:
        return load_benchmark(
            self.benchmark,
            language=language,
            document_language=self.document_language,
            split=self.split,
            # Keeps memory low. A sample of queries needs all documents, as it changes which are relevant.
            documents=None if self.queries else self.pool,
            seed=SAMPLE_SEED,
        )


TESTS: dict[str, type[TestSource]] = {test.kind: test for test in (FolderTest, BitextTest, BenchmarkTest)}


class LexiconSettings(Settings):
    translations: int | None = None
    min_probability: Number | None = None


class TranslatorSettings(Settings):
    source_language: str | dict[str, str] | None = None
    target_language: str | None = None
    prefix: str | None = None
    batch_size: int | None = None
    num_beams: int | None = None
    max_length: int | None = None


class TranslationSettings(TranslatorSettings):
    model: ModelName


class BM25Settings(LexiconSettings, TranslatorSettings):
    stemmer: Literal["english", "none"] = "english"
    translated: Literal["human", "lexicon"] | None = None
    translator: ModelName | None = None


class ShelfSettings(Settings):
    """A model as it is, with an index of its own. `model` defaults to the student."""

    model: ModelName | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None


class RunSettings(Settings):
    """Rankings of another program: test set -> language -> file in TREC's format."""

    files: Annotated[dict[str, dict[str, DataPath]], Field(min_length=1)]


class DensePeerSettings(Settings):
    model: ModelName | None = None
    epochs: Number | None = None
    batch_size: int | None = None
    learning_rate: Number | None = None
    max_steps: int | None = None
    bf16: bool | None = None
    new_words: int | None = None


# Settings of a trained method that are not those of its training.
_NOT_OF_TRAINING = {"triples", "english_file", "test_strength"}
_dictionary = Annotated[dict[str, DataFile] | Any, Field(union_mode="left_to_right")]
TrainingSettings = create_model(  # type: ignore[call-overload]
    "TrainingSettings",
    __base__=Settings,
    **dict.fromkeys(TRAINING_KEYS, (Any, None))
    | dict.fromkeys(_MAPPINGS, (dict[str, Any] | None, None))
    | {"dictionary": (_dictionary, None), "init_pack": (ModelName | None, None)},
)

# Kind of method -> its settings.
KINDS: dict[str, type[Settings]] = {
    "zero_shot": Settings,
    "untrained_pack": TrainingSettings,
    "trained": create_model(
        "TrainedSettings",
        __base__=TrainingSettings,
        triples=(DataFile | None, None),
        english_file=(dict[str, DataFile] | None, None),
        test_strength=(Annotated[Any, AfterValidator(_known_strength)], None),
    ),
    "lexicon": LexiconSettings,
    "bm25": BM25Settings,
    "translation": TranslationSettings,
    "dense_peer": DensePeerSettings,
    "late_interaction": ShelfSettings,
    "sentence_vectors": ShelfSettings,
    "run": RunSettings,
    "ceiling": Settings,
}
# Kinds of models as they are, with an index of their own.
SHELF_KINDS = ("late_interaction", "sentence_vectors")
# Kinds that train a model on sentence pairs and save it.
TRAINED_KINDS = ("trained", "untrained_pack", "dense_peer")


@dataclass(frozen=True)
class Method:
    """A method: its name in the report, its kind (a key of `KINDS`) and its settings."""

    name: str
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def reads_pairs(self) -> bool:
        """Whether the method depends on the sentence pairs of a corpus."""
        if self.kind == "bm25":
            return not self.human_translations and "translator" not in self.settings
        return self.kind in (*TRAINED_KINDS, "lexicon")

    @property
    def human_translations(self) -> bool:
        """Whether the method searches with human translations of the queries."""
        return self.kind == "ceiling" or self.settings.get("translated") == "human"

    def report_kind(self, config: StudyConfig) -> str:
        """The training method, such as `"ot"` or `"greedy"`, of a trained method, and the kind of any other."""
        return str(config.training_settings(self).get("method", "ot")) if self.kind == "trained" else self.kind


class StudyConfig(Settings):
    """
    A study, as [`load_study`] reads it. Methods, test sets and corpora are identified by name.

    Attributes:
        corpora (`dict[str, dict[str, Path]]`): corpus -> language -> file of sentence pairs.
        language_sets (`list[tuple[str, ...]]`): languages of each training run.
        tests (`dict[str, dict[str, TestSource]]`): test set -> language -> source.
        training (`dict[str, Any]`): fields of `OTDistillationConfig` for all trained methods.
        sizes (`list[int | None]`): number of sentence pairs per language; `None` uses all.
        perturbations (`dict[str, list[float]]`): kind -> strengths, in addition to the unperturbed queries.
        groups (`dict[str, tuple[str, ...]]`): name -> languages, for the language gap.
        keep_runs (`bool`): whether the rankings of all cells are kept, in TREC's format.
    """

    name: Text
    title: Text = ""
    questions: Text = ""
    notes: Text = ""
    file: Path | None = None
    teacher: ModelName
    student: ModelName
    corpora: dict[str, dict[str, DataPath]] = {}
    language_sets: Annotated[list[Languages], Distinct]
    tests: Annotated[dict[str, dict[str, TestSource]], Field(min_length=1)]
    methods: Annotated[dict[str, Method], Field(min_length=1)]
    training: dict[str, Any] = {}
    sizes: Annotated[list[PositiveInt | None], Field(min_length=1), Distinct] = [None]
    seeds: Annotated[list[NonNegativeInt], Field(min_length=1), Distinct] = [42]
    perturbations: dict[str, Annotated[list[Strength], Field(min_length=1), Distinct]] = {}
    measures: Annotated[list[str], Field(min_length=1), AfterValidator(_known_measures)] = MEASURES
    groups: dict[str, Languages] = {}
    keep_runs: bool = False

    @property
    def languages(self) -> list[str]:
        """All languages of the study, without duplicates."""
        return list(dict.fromkeys(code for codes in self.language_sets for code in codes))

    def training_settings(self, method: Method) -> dict[str, Any]:
        """Settings of a trained method: the common ones, overridden by its own."""
        return {**self.training, **method.settings}


def training_arguments(settings: Mapping[str, Any], languages: Iterable[str], **more: Any) -> OTDistillationConfig:
    """The configuration of one training run of a study."""
    if settings.get("test_strength") is not None and settings.get("train_all_weights"):
        raise ValueError("test_strength must be left out with train_all_weights, since there is no adapter then")
    languages = list(languages)
    english = settings.get("english_file") or {}
    if english and (missing := [code for code in languages if code not in english]):
        raise ValueError(f"english_file has no file for {', '.join(missing)}; add one for each language")
    settings = {name: value for name, value in settings.items() if name not in _NOT_OF_TRAINING}
    files = dictionary_files(settings)
    if files:
        missing = [code for code in languages if code not in files]
        if missing:
            raise ValueError(f"dictionary has no file for {', '.join(missing)}; add one for each language")
        settings["dictionary"] = [files[code] for code in languages]
    return OTDistillationConfig(
        language=languages,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **settings,
        **more,
    )


def dictionary_files(settings: Mapping[str, Any]) -> dict[str, str]:
    """Language -> dictionary file of a method, if it has its own dictionaries."""
    files = settings.get("dictionary")
    return dict(files) if isinstance(files, Mapping) else {}


def method_files(settings: Mapping[str, Any]) -> list[Path]:
    """Files that a method reads in addition to the sentence pairs."""
    triples = [settings["triples"]] if settings.get("triples") else []
    english = (settings.get("english_file") or {}).values()
    runs = [file for files in (settings.get("files") or {}).values() for file in files.values()]
    return [Path(path) for path in [*dictionary_files(settings).values(), *triples, *english, *runs]]


def load_pairs(file: Path, language: str) -> Dataset:
    """Filtered sentence pairs of a file."""
    pairs, _ = filter_bitext(load_bitext(existing(file), language, TEACHER_LANGUAGE), language, TEACHER_LANGUAGE)
    return pairs


def existing(path: Path) -> Path:
    """`path`, or `path` with `.gz` appended if only that exists."""
    zipped = path.with_name(f"{path.name}.gz")
    return path if path.exists() or not zipped.exists() else zipped
