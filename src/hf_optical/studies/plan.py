"""The cells of a study: what has to be trained, and who is asked what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..bitext import filter_bitext, load_bitext
from ..evaluation import RetrievalDataset, load_beir
from ..evaluation.benchmarks import from_bitext, load_benchmark, sample_pool
from ..storage.fetching import local_folder
from ..training import OTDistillationConfig
from .config import (
    TRAINED_KINDS,
    TRAINING_KEYS,
    Method,
    StudyConfig,
    TestSource,
    existing,
    method_files,
    training_arguments,
)
from .store import key_of


TEACHER_LANGUAGE = "en"
# Of pools, samples and perturbations: every method is asked the same.
SAMPLE_SEED = 0
# Settings that name files, which are hashed; and those that change no weight.
_FILES = {"dictionary", "triples"}
_NEUTRAL = {
    "dataloader_num_workers",
    "dataloader_pin_memory",
    "ddp_find_unused_parameters",
    "logging_steps",
    "per_device_eval_batch_size",
    "save_total_limit",
    "use_cpu",
}


@dataclass(frozen=True)
class TrainingCell:
    """One training run: a method, its sentence pairs and a seed."""

    key: str
    method: Method
    settings: dict[str, Any]
    corpus: str
    languages: tuple[str, ...]
    size: int | None
    seed: int | None
    pairs: int

    @property
    def group(self) -> str:
        """Cells of one group take time in proportion to `work`."""
        return f"train {self.method.kind} {self.settings.get('method', '')} {self.settings.get('max_steps', '')}"

    @property
    def work(self) -> float:
        return self.pairs * float(self.settings.get("num_train_epochs", 3))

    def __str__(self) -> str:
        size = "all pairs" if self.size is None else f"{self.size} pairs"
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"train {self.method.name} on {self.corpus} {'+'.join(self.languages)}, {size}{seed}"


@dataclass(frozen=True)
class TestCell:
    """One method asked the queries of one language and test set, as they are or perturbed."""

    __test__ = False  # pytest takes a name that begins with Test for a test

    key: str
    method: Method
    language: str
    test: str
    training: TrainingCell | None = None
    corpus: str | None = None
    languages: tuple[str, ...] = ()
    size: int | None = None
    seed: int | None = None
    pairs: int = 0
    perturbation: str | None = None
    strength: float = 0.0

    @property
    def group(self) -> str:
        return f"test {self.method.kind} {self.test} {self.language}"

    @property
    def work(self) -> float:
        return 1.0

    def __str__(self) -> str:
        learned = ""
        if self.corpus is not None:
            learned = f" ({self.corpus} {'+'.join(self.languages)}, {self.size or 'all'} pairs)"
        perturbed = f", {self.perturbation} {self.strength:g}" if self.perturbation else ""
        return f"ask {self.method.name}{learned} {self.test} {self.language}{perturbed}"


Cell = TrainingCell | TestCell


@dataclass(frozen=True)
class Inputs:
    """The data of a study, each file read and hashed once."""

    config: StudyConfig
    _loaded: dict[Any, Any] = field(default_factory=dict)

    def pairs(self, corpus: str, language: str, size: int | None = None, seed: int | None = None) -> Dataset:
        """Sentence pairs, filtered: all of them, or the first `size` of one seeded order."""
        file = self.config.corpora[corpus][language]
        if file not in self._loaded:
            loaded = load_bitext(existing(file), language, TEACHER_LANGUAGE)
            self._loaded[file], _ = filter_bitext(loaded, language, TEACHER_LANGUAGE)
        pairs = self._loaded[file]
        if size is None or size >= len(pairs):
            return pairs
        return pairs.shuffle(seed=seed).select(range(size))

    def corpus_with(self, language: str) -> str | None:
        """The first corpus that has a language."""
        return next((name for name, files in self.config.corpora.items() if language in files), None)

    def test_set(self, test: str, language: str) -> RetrievalDataset:
        """The queries and documents of a test set."""
        source = self.config.tests[test][language]
        if source not in self._loaded:
            self._loaded[source] = _load_test(source, language)
        return self._loaded[source]

    def test_hash(self, test: str, language: str) -> str:
        """Hash of all that determines a test set."""
        source = self.config.tests[test][language]
        named = [source.name, source.split, source.document_language] if source.kind == "benchmark" else []
        files = [file_hash(existing(path)) for path in source.files()]
        return key_of({"kind": source.kind, "from": named + files, "pool": source.pool, "queries": source.queries})

    @cached_property
    def models(self) -> dict[str, str]:
        """Hashes of the teacher and the student."""
        return {"teacher": model_hash(self.config.teacher), "student": model_hash(self.config.student)}


def _load_test(source: TestSource, language: str) -> RetrievalDataset:
    if source.kind == "folder":
        dataset = load_beir(source.name, source.split, source.corpus)
    elif source.kind == "bitext":
        pairs = load_bitext(existing(Path(source.name)), language, TEACHER_LANGUAGE)
        pairs, _ = filter_bitext(pairs, language, TEACHER_LANGUAGE)
        dataset = from_bitext(pairs, language, TEACHER_LANGUAGE)
    else:
        dataset = load_benchmark(
            source.name,
            language=language,
            document_language=source.document_language,
            split=source.split,
            # So that the documents left out are never held; those of queries left out come in by the sample below.
            documents=None if source.queries else source.pool,
            seed=SAMPLE_SEED,
        )
    if source.queries:
        dataset = _sample_queries(dataset, source.queries)
    return sample_pool(dataset, source.pool, SAMPLE_SEED) if source.pool else dataset


def _sample_queries(dataset: RetrievalDataset, count: int) -> RetrievalDataset:
    """`count` queries, the same on every machine; a larger sample holds the smaller one."""
    order = sorted(dataset.queries, key=lambda key: hashlib.sha256(f"{SAMPLE_SEED} {key}".encode()).digest())
    chosen = set(order[:count])
    queries = {key: query for key, query in dataset.queries.items() if key in chosen}
    qrels = {key: dataset.qrels[key] for key in queries}
    return replace(dataset, queries=queries, qrels=qrels)


def plan(config: StudyConfig, inputs: Inputs) -> list[Cell]:
    """
    Every cell of a study in the order to do them: a training cell, then who asks what it left; cells of the same
    documents one after the other. Test cells name the study's entries; those of equal key are done once.
    """
    cells: list[Cell] = []
    for method in config.methods.values():
        if not method.reads_pairs:
            for language in config.languages:
                cells += _test_cells(config, inputs, method, language, languages=(language,))
        elif method.kind in TRAINED_KINDS:
            for training in _training_cells(config, inputs, method):
                cells.append(training)
                for language in training.languages:
                    cells += _test_cells(config, inputs, method, language, training=training, **_learned(training))
        else:
            for training in _training_cells(config, inputs, method):
                (language,) = training.languages
                cells += _test_cells(config, inputs, method, language, **_learned(training))
    return cells


def _learned(training: TrainingCell) -> dict[str, Any]:
    return {name: getattr(training, name) for name in ("corpus", "languages", "size", "seed", "pairs")}


def _training_cells(config: StudyConfig, inputs: Inputs, method: Method) -> Iterator[TrainingCell]:
    trained = method.kind in TRAINED_KINDS
    sets = config.language_sets if trained else [(code,) for code in config.languages]
    for corpus, files in config.corpora.items():
        for languages in sets:
            if not set(languages) <= files.keys():
                continue
            counts = {code: len(inputs.pairs(corpus, code)) for code in languages}
            settings: dict[str, Any] = method.settings
            if method.kind in ("trained", "untrained_pack"):
                settings = essential(config.training_settings(method), languages)
            elif settings.get("new_words"):
                settings = {**settings, "student": essential(config.training, languages)}
            for size in config.sizes:
                # More than there are is all there are, and nothing is drawn.
                taken = None if size is None or size >= max(counts.values()) else size
                drawn = taken is not None or method.kind in ("trained", "dense_peer")
                for seed in config.seeds if drawn else [None]:
                    key = key_of(
                        {
                            "stage": "train",
                            "kind": method.kind,
                            "settings": {name: value for name, value in settings.items() if name not in _FILES},
                            "read": [file_hash(path) for path in method_files(settings)],
                            "languages": list(languages),
                            "files": [file_hash(existing(files[code])) for code in languages],
                            "size": taken,
                            "seed": seed,
                            **inputs.models,
                        }
                    )
                    pairs = sum(count if size is None else min(size, count) for count in counts.values())
                    yield TrainingCell(key, method, settings, corpus, languages, size, seed, pairs)


def _test_cells(
    config: StudyConfig, inputs: Inputs, method: Method, language: str, training: TrainingCell | None = None, **learned
) -> Iterator[TestCell]:
    system: dict[str, Any] = {"kind": method.kind, "language": language, **inputs.models}
    if training is not None:
        system["training"] = training.key
    else:
        system["settings"] = {**method.settings}
        if learned.get("corpus"):
            file = config.corpora[learned["corpus"]][language]
            taken = learned["size"] if learned["seed"] is not None else None
            system |= {"file": file_hash(existing(file)), "size": taken, "seed": learned["seed"]}
    for test, sources in config.tests.items():
        if language not in sources:
            continue
        for kind, strength in _perturbations(config, method):
            changed: dict[str, Any] = {"kind": kind, "strength": strength}
            if kind == "code_mixing" and (corpus := inputs.corpus_with(language)):
                changed["file"] = file_hash(existing(config.corpora[corpus][language]))
            key = key_of(
                {
                    "stage": "test",
                    "system": system,
                    "test": inputs.test_hash(test, language),
                    "perturbation": changed if kind else None,
                }
            )
            yield TestCell(key, method, language, test, training, **learned, perturbation=kind, strength=strength)


def _perturbations(config: StudyConfig, method: Method) -> list[tuple[str | None, float]]:
    """What is done to the queries; nothing where a person translated them."""
    found: list[tuple[str | None, float]] = [(None, 0.0)]
    if method.kind != "ceiling" and method.settings.get("translated") != "human":
        found += [(kind, strength) for kind, strengths in config.perturbations.items() for strength in strengths]
    return found


def essential(settings: dict[str, Any], languages: tuple[str, ...]) -> dict[str, Any]:
    """
    The settings that determine a training run: all of this library's own, since their defaults may change from one
    version to the next, and those of `TrainingArguments` that are not its default.
    """
    args = training_arguments({name: value for name, value in settings.items() if name not in _FILES}, languages)
    own = {name: getattr(args, name) for name in OTDistillationConfig.__annotations__ if name in TRAINING_KEYS}
    theirs = {f.name: f.default for f in fields(OTDistillationConfig) if f.default is not MISSING}
    more = {name: value for name, value in settings.items() if name in theirs and theirs[name] != value}
    return {name: value for name, value in {**own, **more}.items() if name not in _NEUTRAL | _FILES}


def file_hash(path: Path) -> str:
    """SHA-256 of a file, which is read again only if it has changed."""
    state = path.stat()
    return _file_hash(path, state.st_size, state.st_mtime_ns)


@cache
def _file_hash(path: Path, size: int, changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def model_hash(name: str) -> str:
    """SHA-256 over the files of a checkpoint that say what it computes."""
    folder = local_folder(name)
    endings = (".json", ".safetensors", ".txt", ".model")
    files = sorted(path for path in folder.rglob("*") if path.suffix in endings and path.is_file())
    content = {str(path.relative_to(folder)): file_hash(path) for path in files}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
