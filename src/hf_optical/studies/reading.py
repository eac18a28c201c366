"""A study is read from one YAML file, and looked at from end to end before anything runs."""

from __future__ import annotations

import dataclasses
import difflib
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError, error_summary, short_repr
from ..evaluation import retrieval_metrics
from ..evaluation.perturbations import PERTURBATIONS
from .config import (
    KINDS,
    SET_BY_STUDY,
    TRAINING_KEYS,
    Method,
    StudyConfig,
    TestSource,
    existing,
    method_files,
    read_yaml,
    trained_methods,
    training_arguments,
)


MEASURES = ("AP", "RR@10", "nDCG@10", "R@100")
_TEST_KEYS = {
    "folder": {"folder", "split", "corpus", "pool", "queries"},
    "bitext": {"bitext", "pool", "queries"},
    "benchmark": {"benchmark", "split", "document_language", "pool", "queries"},
}
_MORE_KEYS = {"data_dir", "languages"}
# What transformers would open as a file if it is no mapping, and `true` as the standard output of the process.
_MAPPINGS = ("accelerator_config", "deepspeed", "fsdp_config", "parallelism_config")
_GOOD = {"sizes": "whole numbers above 0, or null for all", "seeds": "whole numbers from 0 on"}


def load_study(file: str | os.PathLike, data_dir: str | os.PathLike | None = None) -> StudyConfig:
    """
    Reads a study from YAML and checks all of it.

    Args:
        file (`str` or `os.PathLike`): the YAML file.
        data_dir (`str` or `os.PathLike`, *optional*):
            The folder that paths are relative to, in place of the file's own `data_dir`, which is
            relative to the file.

    Raises:
        DataError: the file is missing or no YAML, a key is unknown, a value is of no use, or a data file is missing.
            The message names the file, the place in it and the cure.
    """
    file = Path(file)
    return _Reader(file, data_dir).study(read_yaml(file))


class _Reader:
    """Turns the content of a YAML file into a [`StudyConfig`]; every complaint names the file and the place."""

    def __init__(self, file: Path, data_dir: str | os.PathLike | None):
        self.file, self.data_dir = file, None if data_dir is None else Path(data_dir)

    def study(self, content: Any) -> StudyConfig:
        content = self.mapping(content, "", {f.name for f in dataclasses.fields(StudyConfig)} - {"file"} | _MORE_KEYS)
        for key in ("teacher", "tests", "methods"):
            if not content.get(key):
                self.fail("", f"{key!r} is missing; every study needs one")
        self.data_dir = self.data_dir or self.file.parent / str(content.get("data_dir", "."))
        corpora = {
            name: {code: self.path(path, f"corpora.{name}.{code}") for code, path in files.items()}
            for name, files in self.nested(content, "corpora").items()
        }
        tests = {
            name: {code: self.test(source, f"tests.{name}.{code}") for code, source in sources.items()}
            for name, sources in self.nested(content, "tests").items()
        }
        config = StudyConfig(
            name=str(content.get("name") or self.file.stem),
            title=str(content.get("title") or content.get("name") or self.file.stem),
            questions=_text(content.get("questions")),
            notes=_text(content.get("notes")),
            teacher=self.model(content["teacher"]),
            student=self.model(content.get("student") or content["teacher"]),
            corpora=corpora,
            language_sets=self.language_sets(content, corpora, tests),
            tests=tests,
            methods=self.methods(content["methods"]),
            training=dict(self.mapping(content.get("training"), "training", TRAINING_KEYS)),
            sizes=self.numbers(content, "sizes", [None], int, lambda size: size > 0, or_none=True),
            seeds=self.numbers(content, "seeds", [42], int, lambda seed: seed >= 0),
            perturbations={
                str(kind): self.numbers({kind: values}, kind, [], float, lambda strength: 0 < strength <= 1)
                for kind, values in self.mapping(content.get("perturbations"), "perturbations").items()
            },
            measures=[str(measure) for measure in self.sequence(content.get("measures") or MEASURES, "measures")],
            groups={
                str(name): self.codes(codes, f"groups.{name}")
                for name, codes in self.mapping(content.get("groups"), "groups").items()
            },
            file=self.file,
        )
        self.check(config)
        return config

    def fail(self, place: str, message: str) -> None:
        raise DataError(f"{self.file}{f', {place}' if place else ''}: {message}")

    def mapping(self, value: Any, place: str, allowed: Iterable[str] | None = None) -> dict[str, Any]:
        """`value` if it is a mapping with no other keys than those allowed; nothing for `None`."""
        value = {} if value is None else value
        if not isinstance(value, Mapping):
            self.fail(place, f"{short_repr(value)} in place of `key: value` lines")
        for key in value:
            if not isinstance(key, str):
                self.fail(place, f"the key {short_repr(key)} is no text; write it in quotes")
            if key == "<<":
                self.fail(place, "merge keys (<<) are not followed; write the settings out, or put them in `training`")
            if allowed is not None and key not in allowed:
                self.unknown(place, f"key {short_repr(key)}", key, allowed)
        return dict(value)

    def unknown(self, place: str, what: str, name: str, allowed: Iterable[str]) -> None:
        if name in SET_BY_STUDY:
            self.fail(place, f"{name!r} is set by the study itself; leave it out (seeds are listed under `seeds`)")
        allowed = sorted(allowed)
        close = difflib.get_close_matches(name, allowed, n=3)
        meant = f"; did you mean {' or '.join(map(repr, close))}?" if close else ";"
        listed = ", ".join(allowed) if len(allowed) <= 30 else "the fields of OTDistillationConfig"
        self.fail(place, f"unknown {what}{meant} Allowed: {listed or 'none'}")

    def nested(self, content: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
        outer = self.mapping(content.get(key), key)
        return {name: self.mapping(inner, f"{key}.{name}") for name, inner in outer.items()}

    def sequence(self, value: Any, place: str) -> list[Any]:
        if isinstance(value, (str, bytes)) or not isinstance(value, Iterable) or isinstance(value, Mapping):
            self.fail(place, f"{short_repr(value)} in place of a list such as [a, b]")
        return list(value)

    def codes(self, value: Any, place: str) -> list[str]:
        codes = self.sequence(value, place)
        for code in codes:
            if not isinstance(code, str):
                self.fail(place, f"the code {short_repr(code)} is not text; quote it (YAML reads no as false)")
        if not codes or len(set(codes)) < len(codes):
            self.fail(place, f"{short_repr(codes)} is empty or names a language twice")
        return codes

    def numbers(self, content: dict, key: str, default: list, kind: type, good, *, or_none: bool = False) -> list:
        values = self.sequence(content.get(key, default), key)
        for value in values:
            if value is None and or_none:
                continue
            right = isinstance(value, (int, float) if kind is float else int) and not isinstance(value, bool)
            if not right or not good(value):
                self.fail(
                    key, f"{short_repr(value)} is of no use; pass " + _GOOD.get(key, "numbers above 0 and up to 1")
                )
        if not values:
            self.fail(key, "the list is empty; leave the key out or name one")
        return list(dict.fromkeys(values))

    def path(self, value: Any, place: str) -> Path:
        if not isinstance(value, str):
            self.fail(place, f"{short_repr(value)} in place of a path")
        return self.data_dir / value

    def model(self, name: Any) -> str:
        """A folder relative to the data, if there is one; else a Hub id."""
        folder = self.data_dir / str(name)
        return str(folder) if folder.is_dir() else str(name)

    def test(self, value: Any, place: str) -> TestSource:
        kinds = [kind for kind in _TEST_KEYS if isinstance(value, Mapping) and kind in value]
        if len(kinds) != 1:
            self.fail(place, f"a test set has one of the keys {', '.join(_TEST_KEYS)}; it has {short_repr(value)}")
        (kind,) = kinds
        value = self.mapping(value, place, _TEST_KEYS[kind])
        for key in ("pool", "queries"):
            number = value.get(key)
            if number is not None and (not isinstance(number, int) or number < 1):
                self.fail(place, f"{key}: {short_repr(number)} is no number above 0")
        name = str(value[kind]) if kind == "benchmark" else str(self.path(value[kind], place))
        corpus = self.path(value["corpus"], place) if value.get("corpus") else None
        split = value.get("split", "test" if kind == "folder" else None)
        return TestSource(
            kind, name, split, corpus, value.get("document_language"), value.get("pool"), value.get("queries")
        )

    def methods(self, value: Any) -> dict[str, Method]:
        if not isinstance(value, Mapping):
            value = {name: {"kind": name} for name in map(str, self.sequence(value, "methods"))}
        methods = {}
        for name, settings in self.mapping(value, "methods").items():
            settings = self.mapping(settings, f"methods.{name}")
            kind = str(settings.pop("kind", "trained" if "method" in settings else name))
            # The shorthand [zero_shot, ot, greedy] names ways to train.
            if kind in trained_methods():
                kind, settings = "trained", {"method": kind, **settings}
            if kind not in KINDS:
                self.unknown(f"methods.{name}", f"kind {short_repr(kind)}", kind, [*KINDS, *trained_methods()])
            self.mapping(settings, f"methods.{name}", KINDS[kind])
            methods[name] = Method(name, kind, self.method_settings(kind, settings, f"methods.{name}"))
        return methods

    def method_settings(self, kind: str, settings: dict[str, Any], place: str) -> dict[str, Any]:
        if kind == "translation" and not settings.get("model"):
            self.fail(place, "'model' is missing: the folder or Hub id of a seq2seq model")
        if kind == "bm25" and settings.get("translated") not in (None, "human", "lexicon"):
            found = short_repr(settings["translated"])
            self.fail(place, f"translated: {found}; choose human or lexicon, or name a translator")
        if kind == "bm25" and settings.setdefault("stemmer", "english") not in ("english", "none"):
            self.fail(place, f"stemmer: {short_repr(settings['stemmer'])}; choose english or none")
        for key in ("model", "translator"):
            if key in settings:
                settings[key] = self.model(settings[key])
        if "triples" in settings:
            settings["triples"] = str(self.path(settings["triples"], place))
        if isinstance(settings.get("dictionary"), Mapping):
            files = settings["dictionary"]
            settings["dictionary"] = {code: str(self.path(path, place)) for code, path in files.items()}
        return settings

    def language_sets(self, content: dict, corpora: dict, tests: dict) -> list[tuple[str, ...]]:
        if "languages" in content and "language_sets" in content:
            self.fail("", "languages and language_sets are both there; keep one")
        if "language_sets" in content:
            sets = self.sequence(content["language_sets"], "language_sets")
            sets = [tuple(self.codes(codes, "language_sets")) for codes in sets]
        else:
            known = dict.fromkeys(code for files in (corpora or tests).values() for code in files)
            sets = [(code,) for code in self.codes(content.get("languages") or list(known), "languages")]
        return list(dict.fromkeys(sets))

    def check(self, config: StudyConfig) -> None:
        """What can only be said of the whole."""
        try:
            retrieval_metrics({"q": {"d": 1}}, {}, config.measures)
        except ValueError as error:
            self.fail("measures", str(error))
        self.check_perturbations(config)
        for name, codes in config.groups.items():
            for code in codes:
                if code not in config.languages:
                    self.unknown(f"groups.{name}", f"language {short_repr(code)}", code, config.languages)
        for code in config.languages:
            if not any(code in sources for sources in config.tests.values()):
                self.fail("", f"no test set has the language {short_repr(code)}; add one, or leave the language out")
        trained = [method for method in config.methods.values() if method.reads_pairs]
        for codes in config.language_sets if trained else []:
            if not any(set(codes) <= files.keys() for files in config.corpora.values()):
                named = ", ".join(codes)
                self.fail("corpora", f"no corpus has sentence pairs for {named}, which {trained[0].name} needs")
        self.check_files(config)
        for method in [m for m in config.methods.values() if m.kind in ("trained", "untrained_pack")]:
            self.check_training(config, method)

    def check_perturbations(self, config: StudyConfig) -> None:
        for kind in config.perturbations:
            if kind not in PERTURBATIONS:
                self.unknown("perturbations", f"kind {short_repr(kind)}", kind, PERTURBATIONS)

    def check_files(self, config: StudyConfig) -> None:
        files = [path for own in config.corpora.values() for path in own.values()]
        files += [path for own in config.tests.values() for source in own.values() for path in source.files()]
        for method in config.methods.values():
            files += method_files(method.settings)
        missing = [path for path in dict.fromkeys(files) if not existing(path).exists()]
        if missing:
            listed = ", ".join(map(str, missing))
            self.fail("", f"{len(missing)} data files are missing: {listed}; check data_dir ({self.data_dir})")

    def check_training(self, config: StudyConfig, method: Method) -> None:
        """Has `OTDistillationConfig` itself look at the settings."""
        settings, place = config.training_settings(method), f"methods.{method.name} with training"
        for key in _MAPPINGS:
            if not isinstance(settings.get(key, {}), (Mapping, type(None))):
                self.fail(place, f"{key}: {short_repr(settings[key])} in place of `key: value` lines; write them here")
        for languages in config.language_sets:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    training_arguments(settings, languages, output_dir=folder)
                # There is no class for all that transformers raises on a setting that is not what it should be.
                except Exception as error:
                    self.fail(place, error_summary(error))


def _text(value: Any) -> str:
    return "\n\n".join(map(str, value)) if isinstance(value, list) else str(value or "").strip()
