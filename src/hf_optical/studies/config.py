"""What a study compares."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import DataError, error_summary
from ..training import OTDistillationConfig


# Bytes of a study's file, of which the parser takes some hundred milliseconds for each ten thousand; characters and
# values in it with every alias written out; characters of a number.
_MAX_BYTES, _MAX_VALUES, _LONGEST_NUMBER = 2**18, 10**7, 100
_TAG = "tag:yaml.org,2002:"

# What the study sets itself in the configuration of a training run.
SET_BY_STUDY = {
    "cache_teacher",
    "disable_tqdm",
    "do_eval",
    "do_predict",
    "do_train",
    "eval_strategy",
    # A study is published by itself, its file with it: what is written there may be no secret.
    "hub_always_push",
    "hub_model_id",
    "hub_private_repo",
    "hub_revision",
    "hub_strategy",
    "hub_token",
    "language",
    "load_best_model_at_end",
    "logging_strategy",
    "output_dir",
    "push_to_hub",
    "remove_unused_columns",
    "report_to",
    "resume_from_checkpoint",
    "save_strategy",
    "seed",
    "teacher_cache_dir",
}
TRAINING_KEYS = {f.name for f in dataclasses.fields(OTDistillationConfig) if f.init} - SET_BY_STUDY
_LEXICON_KEYS = {"translations", "min_probability"}
_TRANSLATOR_KEYS = {"source_language", "target_language", "prefix", "batch_size", "num_beams", "max_length"}

# Kind of method -> the keys that it takes beside `kind`.
KINDS: dict[str, set[str]] = {
    "zero_shot": set(),
    "untrained_pack": TRAINING_KEYS,
    "trained": TRAINING_KEYS | {"triples"},
    "lexicon": _LEXICON_KEYS,
    "bm25": {"stemmer", "translated", "translator", *_LEXICON_KEYS, *_TRANSLATOR_KEYS},
    "translation": {"model", *_TRANSLATOR_KEYS},
    "dense_peer": {"epochs", "batch_size", "learning_rate", "max_steps", "bf16", "new_words"},
    "ceiling": set(),
}
# Kinds that leave something to be opened later, made from sentence pairs.
TRAINED_KINDS = ("trained", "untrained_pack", "dense_peer")


@dataclass(frozen=True)
class Method:
    """A method: its name in the report, its kind (a key of `KINDS`) and its settings."""

    name: str
    kind: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def reads_pairs(self) -> bool:
        """Whether it depends on the sentence pairs of a corpus."""
        if self.kind == "bm25":
            return self.settings.get("translated") != "human" and "translator" not in self.settings
        return self.kind in (*TRAINED_KINDS, "lexicon")

    def report_kind(self, config: StudyConfig) -> str:
        """The kind, or the way of training for one that is trained: `"ot"`, `"greedy"`, ..."""
        return str(config.training_settings(self).get("method", "ot")) if self.kind == "trained" else self.kind


@dataclass(frozen=True)
class TestSource:
    """
    Where the queries and documents of one test set and language come from.

    Args:
        kind (`str`): `"folder"` (BEIR layout), `"bitext"` (find the translation of a sentence) or `"benchmark"`.
        name (`str`): the folder, file or name.
        split (`str`, *optional*): the part of it.
        corpus (`Path`, *optional*): the corpus file, where the folder holds none.
        document_language (`str`, *optional*): of a benchmark whose documents come in several.
        pool (`int`, *optional*), queries (`int`, *optional*): how many documents and queries are sampled of it.
    """

    __test__ = False  # pytest takes a name that begins with Test for a test

    kind: str
    name: str
    split: str | None = None
    corpus: Path | None = None
    document_language: str | None = None
    pool: int | None = None
    queries: int | None = None

    def files(self) -> list[Path]:
        """The files that it reads; each may be gzipped, with `.gz` after its name."""
        if self.kind == "bitext":
            return [Path(self.name)]
        if self.kind == "folder":
            folder = Path(self.name)
            corpus = self.corpus or folder / "corpus.jsonl"
            return [folder / "queries.jsonl", folder / "qrels" / f"{self.split}.tsv", corpus]
        return []


@dataclass(frozen=True)
class StudyConfig:
    """
    A study. [`load_study`] reads it and says what each entry is; a method, a test and a corpus are known by name.

    Attributes:
        corpora (`dict[str, dict[str, Path]]`): corpus -> language -> file of sentence pairs.
        language_sets (`list[tuple[str, ...]]`): the languages of each training run.
        tests (`dict[str, dict[str, TestSource]]`): test set -> language -> where it comes from.
        sizes (`list[int | None]`): sentence pairs a language; `None` is all.
        perturbations (`dict[str, list[float]]`): kind -> strengths, beside the queries as they are.
        groups (`dict[str, list[str]]`): name -> languages, for the language gap.
    """

    name: str
    teacher: str
    student: str
    corpora: dict[str, dict[str, Path]]
    language_sets: list[tuple[str, ...]]
    tests: dict[str, dict[str, TestSource]]
    methods: dict[str, Method]
    training: dict[str, Any]
    sizes: list[int | None]
    seeds: list[int]
    perturbations: dict[str, list[float]]
    measures: list[str]
    groups: dict[str, list[str]]
    title: str = ""
    questions: str = ""
    notes: str = ""
    file: Path | None = None

    @property
    def languages(self) -> list[str]:
        """Every language of the study, each once."""
        return list(dict.fromkeys(code for codes in self.language_sets for code in codes))

    def training_settings(self, method: Method) -> dict[str, Any]:
        """Settings of a method that is trained: those of all, and its own over them."""
        return {**self.training, **method.settings}


class _Loader(yaml.SafeLoader):
    """
    Plain values alone, in time that grows with the text: merge keys (`<<`) multiply while they are read, before any
    alias can be counted, and numbers to base 60 (`12:30`, here a text) take the square of their length.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (f"{_TAG}merge", f"{_TAG}value")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Leaves a mapping as it is: that a key is a merge may be said by its tag too."""

    def _number(self, node: yaml.ScalarNode) -> int | float | str:
        text = self.construct_scalar(node)
        if len(text) > _LONGEST_NUMBER:
            raise ValueError(f"line {node.start_mark.line + 1}: a number of over {_LONGEST_NUMBER} characters")
        if ":" in text:
            return text
        return self.construct_yaml_int(node) if node.tag == f"{_TAG}int" else self.construct_yaml_float(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _Loader._number)


def read_yaml(file: Path) -> Any:
    """
    Reads a YAML file of at most 256 KiB and, with every alias written out, ten million characters; nothing in it is
    run, and no merge key (`<<`) is followed.

    Raises:
        DataError: the file is missing, larger, or no YAML in UTF-8. The message names it.
    """
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise DataError(f"{file} has more than {_MAX_BYTES} bytes, which no study needs; check the path")
        loader = _Loader(file.read_text(encoding="utf-8"))
        try:
            content = loader.get_single_data()
        finally:
            loader.dispose()
        if _count(content, {}) > _MAX_VALUES:
            raise DataError(
                f"{file} has more than {_MAX_VALUES} characters and values with every alias written out; write fewer"
            )
    except OSError as error:
        raise DataError(f"the study {file} cannot be read ({error.strerror}); check the path") from error
    except RecursionError as error:
        raise DataError(f"{file} is nested too deeply; write it flatter") from error
    except DataError:
        raise
    # Nothing but the parser is at work here: a date of no calendar, or a tag that does not fit its value, ends there
    # in whatever its own line raises.
    except Exception as error:
        raise DataError(f"{file} is no YAML in UTF-8: {error_summary(error)}") from error
    return content


def _count(value: Any, known: dict[int, int]) -> int:
    """How many characters and values there are in a value; an alias is one object in many places."""
    if isinstance(value, (str, bytes)):
        return 1 + len(value)
    if isinstance(value, dict):
        children = [*value.keys(), *value.values()]
    else:
        children = value if isinstance(value, (list, tuple, set)) else []
    if id(value) not in known:
        known[id(value)] = _MAX_VALUES  # inside itself it has no end
        known[id(value)] = 1 + sum(_count(child, known) for child in children)
    return known[id(value)]


def training_arguments(settings: Mapping[str, Any], languages: Iterable[str], **more: Any) -> OTDistillationConfig:
    """The configuration of one training run of a study."""
    settings, languages = {name: value for name, value in settings.items() if name != "triples"}, list(languages)
    files = dictionary_files(settings)
    if files:
        lacking = [code for code in languages if code not in files]
        if lacking:
            raise ValueError(f"dictionary has no file for {', '.join(lacking)}; name one for each language")
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


def trained_methods() -> list[str]:
    """What `method` of `OTDistillationConfig` may be."""
    (option,) = (option for option in dataclasses.fields(OTDistillationConfig) if option.name == "method")
    return list(option.metadata["choices"])


def dictionary_files(settings: Mapping[str, Any]) -> dict[str, str]:
    """Language -> file, where a method reads dictionaries of its own."""
    files = settings.get("dictionary")
    return dict(files) if isinstance(files, Mapping) else {}


def method_files(settings: Mapping[str, Any]) -> list[Path]:
    """The files that a method reads beside the sentence pairs."""
    triples = [settings["triples"]] if settings.get("triples") else []
    return [Path(path) for path in [*dictionary_files(settings).values(), *triples]]


def existing(path: Path) -> Path:
    """`path`, or `path` with `.gz` after it where only that is there."""
    zipped = path.with_name(f"{path.name}.gz")
    return path if path.exists() or not zipped.exists() else zipped
