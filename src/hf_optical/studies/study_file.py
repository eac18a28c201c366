"""Reading a study from its YAML file, with all checks before anything runs."""

from __future__ import annotations

import difflib
import os
import reprlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ..errors import DataError
from ..evaluation.perturbations import PERTURBATIONS
from ..methods import method_names
from .settings import (
    KINDS,
    SET_BY_STUDY,
    TESTS,
    Method,
    Settings,
    StudyConfig,
    TestSource,
    TrainingSettings,
    existing,
    method_files,
    training_arguments,
)


# Limits of a study's file: bytes, characters and values with aliases expanded, and characters of a number.
_MAX_BYTES, _MAX_VALUES, _MAX_DIGITS = 2**18, 10**7, 100
_TAG = "tag:yaml.org,2002:"


def load_study(file: str | os.PathLike, data_dir: str | os.PathLike | None = None) -> StudyConfig:
    """
    Read a study from YAML and check all of it.

    Args:
        file (`str` or `os.PathLike`): the YAML file.
        data_dir (`str` or `os.PathLike`, *optional*):
            Folder that paths are relative to. Overrides the file's own `data_dir`, which is relative to the file.

    Raises:
        DataError: the file is missing or not valid YAML, a key is unknown, a value is invalid, or a data file is
            missing. The message names the file and the place in it.
    """
    file = Path(file)
    content = read_yaml(file)
    if data_dir is None:
        data_dir = file.parent / str(content.get("data_dir", ".") if isinstance(content, Mapping) else ".")
    return _Reader(file, Path(data_dir)).study(content)


class _Reader:
    """Turns the content of a study's file into a [`StudyConfig`]; errors name the file and the place."""

    def __init__(self, file: Path, data_dir: Path):
        self.file, self.data_dir = file, data_dir

    def study(self, content: Any) -> StudyConfig:
        entries = {key: value for key, value in self.mapping(content, "").items() if value is not None}
        entries.pop("data_dir", None)
        if "tests" in entries:
            entries["tests"] = {
                name: {
                    code: self.test(source, f"tests.{name}.{code}")
                    for code, source in self.mapping(sources, f"tests.{name}").items()
                }
                for name, sources in self.mapping(entries["tests"], "tests").items()
            }
        if "methods" in entries:
            entries["methods"] = self.methods(entries["methods"])
        entries["training"] = self.settings(TrainingSettings, entries.get("training", {}), "training")
        entries["language_sets"] = self.language_sets(entries)
        defaults = {"name": self.file.stem, "student": entries.get("teacher"), "file": self.file}
        config = self.validated(StudyConfig, {**defaults, "title": entries.get("name", self.file.stem), **entries})
        self.check_languages(config)
        self.check_files(config)
        self.check_training(config)
        return config

    def mapping(self, value: Any, place: str) -> dict[str, Any]:
        value = {} if value is None else value
        if not isinstance(value, Mapping):
            raise self.error(place, f"Input should be a valid dictionary, got {reprlib.repr(value)}")
        return dict(value)

    def validated(self, model: type[Any], value: Any, place: str = "") -> Any:
        try:
            return model.model_validate(value, context=self.data_dir)
        except ValidationError as error:
            raise self.explained(error, model, place) from None

    def settings(self, model: type[Settings], value: Any, place: str) -> dict[str, Any]:
        """Settings that are in the file, in its order."""
        checked = self.validated(model, value, place)
        return {key: getattr(checked, key) for key in value}

    def error(self, place: str, message: str) -> DataError:
        return DataError(f"{self.file}{', ' * bool(place)}{place}: {message}")

    def explained(self, error: ValidationError, model: type[Settings], place: str) -> DataError:
        """An unknown key or else the first error of a validation, with its place in the file."""
        first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
        *parents, key = [place, *map(str, first["loc"])]
        parent, where = ".".join(filter(None, parents)), ".".join(filter(None, [*parents, key]))
        if first["type"] == "missing":
            return self.error(parent, f"{key!r} is missing")
        if first["type"] == "extra_forbidden":
            return self.unknown(parent, "key", key, model.model_fields)
        cure = "; write it in quotes" if "string" in first["type"] and isinstance(first["input"], int) else ""
        message = first["msg"].removeprefix("Value error, ")
        return self.error(where, f"{message}, got {reprlib.repr(first['input'])}{cure}")

    def unknown(self, place: str, what: str, name: str, allowed: Iterable[str]) -> DataError:
        if name == "<<":
            return self.error(place, "merge keys (<<) are not supported; write the settings out or use `training`")
        if name in SET_BY_STUDY:
            return self.error(place, f"{name!r} is set by the study itself; remove it (for seeds, use `seeds`)")
        allowed = sorted(allowed)
        close = difflib.get_close_matches(name, allowed, n=3)
        hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
        listed = ", ".join(allowed) if len(allowed) <= 30 else "the fields of OTDistillationConfig"
        return self.error(place, f"unknown {what} {reprlib.repr(name)}{hint} Allowed: {listed or 'none'}")

    def test(self, value: Any, place: str) -> TestSource:
        kinds = [kind for kind in TESTS if isinstance(value, Mapping) and kind in value]
        if len(kinds) != 1:
            raise self.error(place, f"a test set has one of the keys {', '.join(TESTS)}, got {reprlib.repr(value)}")
        return self.validated(TESTS[kinds[0]], value, place)

    def methods(self, value: Any) -> dict[str, Method]:
        entries = {str(name): {"kind": name} for name in value} if isinstance(value, list) else value
        methods = {}
        for name, entry in self.mapping(entries, "methods").items():
            place = f"methods.{name}"
            settings = self.mapping(entry, place)
            kind = str(settings.pop("kind", "trained" if "method" in settings else name))
            # The shorthand [zero_shot, ot, greedy] names training methods.
            if kind in method_names():
                kind, settings = "trained", {"method": kind, **settings}
            if kind not in KINDS:
                raise self.unknown(place, "kind", kind, [*KINDS, *method_names()])
            if kind == "bm25":
                settings.setdefault("stemmer", "english")
            methods[name] = Method(name, kind, self.settings(KINDS[kind], settings, place))
        return methods

    def language_sets(self, entries: dict[str, Any]) -> Any:
        """The entry `language_sets`, or each of the `languages` alone, which default to those of the data."""
        languages = entries.pop("languages", None)
        if languages and "language_sets" in entries:
            raise self.error("", "languages and language_sets exclude each other; keep one")
        data = self.mapping(entries.get("corpora") or entries.get("tests"), "corpora")
        known = [code for name, files in data.items() for code in self.mapping(files, f"corpora.{name}")]
        single = languages or list(dict.fromkeys(known))
        return entries.get("language_sets", [[code] for code in single] if isinstance(single, list) else single)

    def check_languages(self, config: StudyConfig) -> None:
        """Check that perturbations are known, and that languages have test sets and sentence pairs."""
        for kind in config.perturbations.keys() - PERTURBATIONS.keys():
            raise self.unknown("perturbations", "kind", kind, PERTURBATIONS)
        for name, codes in config.groups.items():
            for code in set(codes) - set(config.languages):
                raise self.unknown(f"groups.{name}", "language", code, config.languages)
        for code in config.languages:
            if not any(code in sources for sources in config.tests.values()):
                raise self.error("tests", f"no test set has the language {code!r}; add one or remove the language")
        trained = [method.name for method in config.methods.values() if method.reads_pairs]
        for codes in config.language_sets if trained else []:
            if not any(set(codes) <= files.keys() for files in config.corpora.values()):
                named = ", ".join(codes)
                raise self.error("corpora", f"no corpus has sentence pairs for {named}, which {trained[0]} needs")

    def check_files(self, config: StudyConfig) -> None:
        files = [path for own in config.corpora.values() for path in own.values()]
        files += [path for own in config.tests.values() for source in own.values() for path in source.files()]
        for method in config.methods.values():
            files += method_files(method.settings)
        missing = [path for path in dict.fromkeys(files) if not existing(path).exists()]
        if missing:
            listed = ", ".join(map(str, missing))
            raise self.error("", f"{len(missing)} data files are missing: {listed}; check data_dir ({self.data_dir})")

    def check_training(self, config: StudyConfig) -> None:
        """Build the training configuration of every method, which checks its own values."""
        for method in config.methods.values():
            if method.kind in ("trained", "untrained_pack"):
                for languages in config.language_sets:
                    self.check_arguments(config.training_settings(method), languages, method.name)

    def check_arguments(self, settings: dict[str, Any], languages: tuple[str, ...], method: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                training_arguments(settings, languages, output_dir=folder)
            except Exception as error:  # transformers has no common class for invalid settings
                raise self.error(f"methods.{method} with training", _one_line(error)) from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


class _Loader(yaml.SafeLoader):
    """
    Safe loader whose time is linear in the text.

    It treats merge keys (`<<`), which multiply while they are read, as plain keys, and base-60 numbers (`12:30`) as
    text. Numbers have a maximum length, and a key that is given twice is an error.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (f"{_TAG}merge", f"{_TAG}value")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Do not merge, even where a key is tagged as a merge."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            keys = [key.value for key, _ in node.value]
            twice = next(key for place, key in enumerate(keys) if key in keys[:place])
            raise ValueError(f"line {node.start_mark.line + 1}: the key {twice!r} is given twice; leave one out")
        return mapping

    def number(self, node: yaml.ScalarNode) -> int | float | str:
        text = self.construct_scalar(node)
        if len(text) > _MAX_DIGITS:
            raise ValueError(f"line {node.start_mark.line + 1}: a number of over {_MAX_DIGITS} characters")
        if ":" in text:
            return text
        return self.construct_yaml_int(node) if node.tag == f"{_TAG}int" else self.construct_yaml_float(node)


for _kind in ("int", "float"):
    _Loader.add_constructor(f"{_TAG}{_kind}", _Loader.number)


def read_yaml(file: Path) -> Any:
    """Read a YAML file of at most 256 KiB and, with aliases expanded, ten million characters."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"cannot read the study {file} ({error.strerror}); check the path") from error
    if len(raw) > _MAX_BYTES:
        raise DataError(f"{file} has more than {_MAX_BYTES} bytes, too many for a study; check the path")
    try:
        content = _Loader(raw.decode("utf-8")).get_single_data()
        size = _expanded_size(content, {})
    except Exception as error:  # constructors of the parser raise errors of many classes
        reason = "nested too deeply" if isinstance(error, RecursionError) else _one_line(error)
        raise DataError(f"{file} is not YAML in UTF-8: {reason}") from error
    if size > _MAX_VALUES:
        raise DataError(f"{file} has more than {_MAX_VALUES} characters and values with aliases expanded")
    return content


def _expanded_size(value: Any, known: dict[int, int]) -> int:
    """Number of characters and values, counting an aliased value each time that it appears."""
    if isinstance(value, (str, bytes)):
        return 1 + len(value)
    children = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    if not isinstance(children, (list, tuple, set)):
        return 1
    if id(value) not in known:
        known[id(value)] = _MAX_VALUES  # a value inside itself is infinite
        known[id(value)] = 1 + sum(_expanded_size(child, known) for child in children)
    return known[id(value)]
