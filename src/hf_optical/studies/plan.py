"""The cells of a study: models to train, and queries to answer with each method."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainingArguments

from ..evaluation import RetrievalDataset
from ..evaluation.benchmarks import sample_pool
from ..storage.fetching import local_folder
from ..training import OTDistillationConfig
from ..training.config import ENOUGH_SENTENCES, MOST_EPOCHS, default_epochs
from .settings import (
    SAMPLE_SEED,
    SHELF_KINDS,
    TRAINED_KINDS,
    TRAINING_KEYS,
    Method,
    StudyConfig,
    existing,
    load_pairs,
    method_files,
    training_arguments,
)
from .store import key_of


# Settings that name files, which are hashed, and settings that do not change the trained weights.
_FILES = {"dictionary", "triples", "english_file"}
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
    """One training run: a method, its sentence pairs and a seed. In a `group`, time is proportional to `work`."""

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
        return f"train {self.method.kind} {self.settings.get('method', '')} {self.settings.get('max_steps', '')}"

    @property
    def work(self) -> float:
        return self.pairs * float(self.settings.get("num_train_epochs") or default_epochs(self.pairs))

    @property
    def data(self) -> dict[str, Any]:
        """The training data, as fields of a [`TestCell`]."""
        return {name: getattr(self, name) for name in ("corpus", "languages", "size", "seed", "pairs")}

    def __str__(self) -> str:
        size = "all pairs" if self.size is None else f"{self.size} pairs"
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"train {self.method.name} on {self.corpus} {'+'.join(self.languages)}, {size}{seed}"


@dataclass(frozen=True)
class TestCell:
    """One method on the queries of one test set and language, perturbed or not."""

    __test__ = False  # not a pytest class
    work = 1.0

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

    def __str__(self) -> str:
        data = f" ({self.corpus} {'+'.join(self.languages)}, {self.size or 'all'} pairs)" if self.corpus else ""
        perturbed = f", {self.perturbation} {self.strength:g}" if self.perturbation else ""
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"test {self.method.name}{data} on {self.test} {self.language}{perturbed}{seed}"


Cell = TrainingCell | TestCell


@dataclass(frozen=True)
class Inputs:
    """The data of a study. Each file is read and hashed once."""

    config: StudyConfig
    _loaded: dict[Any, Any] = field(default_factory=dict)

    def pairs(self, corpus: str, language: str, size: int | None = None, seed: int | None = None) -> Dataset:
        """Filtered sentence pairs: all of them, or the first `size` in a seeded order."""
        file = self.config.corpora[corpus][language]
        if (file, language) not in self._loaded:
            self._loaded[file, language] = load_pairs(file, language)
        pairs = self._loaded[file, language]
        if size is None or size >= len(pairs):
            return pairs
        return pairs.shuffle(seed=seed).select(range(size))

    def pairs_hash(self, corpus: str, language: str) -> str:
        return file_hash(existing(self.config.corpora[corpus][language]))

    def corpus_with(self, language: str) -> str | None:
        """The first corpus that has a language."""
        return next((name for name, files in self.config.corpora.items() if language in files), None)

    def test_set(self, test: str, language: str) -> RetrievalDataset:
        """Queries and documents of a test set."""
        source = self.config.tests[test][language]
        # The sources of two languages may be equal, such as the name of a benchmark.
        if (source, language) not in self._loaded:
            dataset = source.load(language)
            if source.queries:
                dataset = _sample_queries(dataset, source.queries)
            dataset = sample_pool(dataset, source.pool, SAMPLE_SEED) if source.pool else dataset
            self._loaded[source, language] = dataset
        return self._loaded[source, language]

    def test_hash(self, test: str, language: str) -> str:
        """Hash of everything that determines a test set."""
        source = self.config.tests[test][language]
        origin = [*source.names(), *(file_hash(existing(path)) for path in source.files())]
        return key_of({"kind": source.kind, "from": origin, "pool": source.pool, "queries": source.queries})

    def projecting_corpus(self, language: str) -> str | None:
        """The corpus whose English sentences a projection of an untrained student is fitted on, if it needs one."""
        return self.corpus_with(language) if self.models["teacher"] != self.models["student"] else None

    @cached_property
    def models(self) -> dict[str, str]:
        """Hashes of the teacher and the student."""
        return {"teacher": model_hash(self.config.teacher), "student": model_hash(self.config.student)}

    def models_of(self, method: Method) -> dict[str, str]:
        """Hashes of the models that a method opens, but for the pack that it starts from."""
        own = method.settings.get("model") if method.kind in (*SHELF_KINDS, "dense_peer") else None
        translator = method.settings.get("model" if method.kind == "translation" else "translator")
        opened = {"student": own, "translator": translator}
        return self.models | {role: model_hash(name) for role, name in opened.items() if name}


def _sample_queries(dataset: RetrievalDataset, count: int) -> RetrievalDataset:
    """`count` queries, the same on every machine. Larger samples contain smaller ones."""
    order = sorted(dataset.queries, key=lambda key: hashlib.sha256(f"{SAMPLE_SEED} {key}".encode()).digest())
    chosen = set(order[:count])
    queries = {key: query for key, query in dataset.queries.items() if key in chosen}
    return replace(dataset, queries=queries, qrels={key: dataset.qrels[key] for key in queries})


def plan(config: StudyConfig, inputs: Inputs) -> list[Cell]:
    """
    All cells of a study in the order to run them: each training cell comes before the test cells that need it.

    Cells with equal keys are equal work and run once.
    """
    cells: list[Cell] = []
    for method in config.methods.values():
        if not method.reads_pairs:
            for language in config.languages:
                cells += _test_cells(config, inputs, method, language, None, languages=(language,))
            continue
        for training in _training_cells(config, inputs, method):
            trained = training if method.kind in TRAINED_KINDS else None
            cells += [trained] if trained else []
            for language in training.languages:
                cells += _test_cells(config, inputs, method, language, trained, **training.data)
    return cells


def _training_cells(config: StudyConfig, inputs: Inputs, method: Method) -> Iterator[TrainingCell]:
    sets = config.language_sets if method.kind in TRAINED_KINDS else [(code,) for code in config.languages]
    for corpus, languages in ((corpus, codes) for corpus in config.corpora for codes in sets):
        if not set(languages) <= config.corpora[corpus].keys():
            continue
        counts = {code: len(inputs.pairs(corpus, code)) for code in languages}
        given = settings = method.settings
        if method.kind in ("trained", "untrained_pack"):
            given = config.training_settings(method)
            settings = _with_pack_hash(essential(given, languages))
        elif settings.get("new_words"):
            settings = {**settings, "student": _with_pack_hash(essential(config.training, languages))}
        for size in config.sizes:
            # With all pairs, the seed matters only to training.
            taken = None if size is None or size >= max(counts.values()) else size
            seeded = taken is not None or method.kind in ("trained", "dense_peer")
            for seed in config.seeds if seeded else [None]:
                content = {
                    "stage": "train",
                    "kind": method.kind,
                    "settings": {name: value for name, value in settings.items() if name not in _FILES},
                    "read": [
                        (name, file_hash(path))
                        for name in sorted((_FILES - {"english_file"}) & given.keys())
                        for path in method_files({name: given[name]})
                    ],
                    **_english_hashes(given, languages),
                    "languages": list(languages),
                    "files": [inputs.pairs_hash(corpus, code) for code in languages],
                    "size": taken,
                    "seed": seed,
                    **inputs.models_of(method),
                }
                pairs = sum(count if size is None else min(size, count) for count in counts.values())
                yield TrainingCell(key_of(content), method, settings, corpus, languages, size, seed, pairs)


def _test_cells(
    config: StudyConfig, inputs: Inputs, method: Method, language: str, training: TrainingCell | None, **data: Any
) -> Iterator[TestCell]:
    system: dict[str, Any] = {"kind": method.kind, "language": language, **inputs.models_of(method)}
    if training is not None:
        system["training"] = training.key
        if (strength := method.settings.get("test_strength")) is not None:
            system["strength"] = strength
    else:
        system["settings"] = {name: value for name, value in method.settings.items() if name != "files"}
        if method.kind == "zero_shot" and (corpus := inputs.projecting_corpus(language)):
            system["projection"] = [inputs.pairs_hash(corpus, language), config.training.get("fit_projection")]
        if data.get("corpus"):
            size = data["size"] if data["seed"] is not None else None
            system |= {"file": inputs.pairs_hash(data["corpus"], language), "size": size, "seed": data["seed"]}
    files = method.settings.get("files")
    for test in (test for test, sources in config.tests.items() if language in sources):
        if files is not None:
            if language not in files.get(test, ()):
                continue
            system["file"] = file_hash(existing(files[test][language]))
        for kind, strength in _perturbations(config, method):
            perturbation: dict[str, Any] = {"kind": kind, "strength": strength}
            if kind == "code_mixing" and (corpus := inputs.corpus_with(language)):
                perturbation["file"] = inputs.pairs_hash(corpus, language)
            content = {
                "stage": "test",
                "system": system,
                "test": inputs.test_hash(test, language),
                "perturbation": perturbation if kind else None,
            }
            yield TestCell(
                key_of(content), method, language, test, training, **data, perturbation=kind, strength=strength
            )


def _perturbations(config: StudyConfig, method: Method) -> list[tuple[str | None, float]]:
    """Kinds and strengths, first none. Human translations and rankings from files are not perturbed."""
    kinds = {} if method.human_translations or method.kind == "run" else config.perturbations
    return [(None, 0.0), *((kind, strength) for kind, strengths in kinds.items() for strength in strengths)]


def _english_hashes(settings: dict[str, Any], languages: tuple[str, ...]) -> dict[str, Any]:
    """The English texts of a training run; nothing without any, as before there were some."""
    files = settings.get("english_file") or {}
    own = [(code, file_hash(existing(Path(files[code])))) for code in languages if code in files]
    return {"english": own} if own else {}


def essential(settings: dict[str, Any], languages: tuple[str, ...]) -> dict[str, Any]:
    """
    The settings that determine a training run.

    These are all settings of this library, as their defaults may change between versions, and those of
    `TrainingArguments` that differ from its defaults.
    """
    args = training_arguments({name: value for name, value in settings.items() if name not in _FILES}, languages)
    classes = [cls for cls in OTDistillationConfig.__mro__ if cls not in TrainingArguments.__mro__]
    names = {name for cls in classes for name in inspect.get_annotations(cls)} & TRAINING_KEYS
    own = {name: getattr(args, name) for name in sorted(names)}
    if args.num_train_epochs is None:
        own["num_train_epochs"] = {"sentences": ENOUGH_SENTENCES, "at_most": MOST_EPOCHS}
    defaults = {f.name: f.default for f in fields(OTDistillationConfig) if f.default is not MISSING}
    changed = {name: value for name, value in settings.items() if name in defaults and defaults[name] != value}
    return {name: value for name, value in {**own, **changed}.items() if name not in _NEUTRAL | _FILES}


def _with_pack_hash(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the hash of the pack that training starts from in place of its name."""
    pack = settings.get("init_pack")
    return {**settings, "init_pack": model_hash(pack)} if pack else settings


def file_hash(path: Path) -> str:
    """SHA-256 of a file, which is read again only if it has changed."""
    state = path.stat()
    return _file_hash(path, state.st_size, state.st_mtime_ns)


@cache
def _file_hash(path: Path, size: int, changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def model_hash(name: str) -> str:
    """SHA-256 of the files of a checkpoint that determine its outputs."""
    folder = local_folder(name)
    endings = (".json", ".safetensors", ".txt", ".model")
    files = sorted(path for path in folder.rglob("*") if path.suffix in endings and path.is_file())
    content = {str(path.relative_to(folder)): file_hash(path) for path in files}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
