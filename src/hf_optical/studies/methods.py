"""How each kind of method is trained, and how it answers queries."""

from __future__ import annotations

import gc
import io
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback

from ..bitext import Dictionary, learn_dictionary, load_triples
from ..errors import DataError
from ..evaluation import per_query_metrics, run_from_hits
from ..evaluation.perturbations import perturb_queries
from ..model import OpticalModel, OpticalProcessor
from ..retrieval import OpticalRetriever, TokenVectors
from ..retrieval.bm25 import BM25, english_stemmer
from ..retrieval.search import Hit, search
from ..retrieval.translation import LexiconTranslator, Seq2SeqTranslator
from ..training import OTDistillationTrainer
from ..training.teacher import TeacherVectors
from .config import StudyConfig, training_arguments
from .peers import dense_vectors, open_dense, train_dense_peer
from .plan import SAMPLE_SEED, TEACHER_LANGUAGE, Inputs, TestCell, TrainingCell
from .store import Store, key_of


# Length of the rankings measured, as in TREC.
DEPTH = 1000
# Of a run for which nothing is drawn.
_SEED = 42
_TEXTS_AT_A_TIME = 256
# What the peer's one model for all languages is called.
_PEER = "peer"

# The queries of a test cell -> what is found for each, best first.
System = Callable[[list[str], TestCell], list[list[Hit]]]


class Workbench:
    """
    Trains and asks the methods of one study; the teacher and what was opened last are kept in memory.

    Args:
        config ([`StudyConfig`]), inputs ([`Inputs`]), store ([`Store`]): the study, its data, and where cells go.
    """

    def __init__(self, config: StudyConfig, inputs: Inputs, store: Store):
        self.config, self.inputs, self.store = config, inputs, store
        self.device = "cpu" if config.training.get("use_cpu") else None
        # Seconds for document vectors, which are no cell's own.
        self.waited = 0.0
        self._kept: dict[str, tuple[Any, Any]] = {}

    def keep(self, what: str, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives; the last of each sort is kept."""
        if what not in self._kept or self._kept[what][0] != key:
            # The old one goes before the new one comes.
            self._kept.pop(what, None)
            self._kept[what] = key, make()
        return self._kept[what][1]

    @property
    def teacher(self) -> OpticalRetriever:
        name = self.config.teacher
        return self.keep("teacher", name, lambda: OpticalRetriever.from_pretrained(name, device=self.device))

    def document_vectors(self, cell: TestCell, *, dense: bool = False) -> TokenVectors:
        """The documents of a test set as the teacher reads them, or with `dense` its sentence vectors."""
        texts = self.inputs.test_set(cell.test, cell.language).document_texts()
        roles = None if dense else self.teacher.processor.roles
        key = key_of({"stage": "documents", "texts": texts, "teacher": self.inputs.models["teacher"], "roles": roles})

        def encode() -> TokenVectors:
            if dense:
                return TokenVectors.from_padded(self._dense(self.config.teacher)(texts).cpu())
            return self._read_documents(texts)

        start = time.perf_counter()
        vectors = self.keep("documents", key, lambda: self.store.vectors(key, encode))
        self.waited += time.perf_counter() - start
        return vectors

    def _read_documents(self, texts: list[str]) -> TokenVectors:
        """Passages that pools share are read once."""
        model, processor = self.teacher.model, self.teacher.processor
        cache = self.store.folder / "documents" / "teacher"
        read = TeacherVectors.prepare(model, processor, texts, ("document",), cache, show_progress=False)
        parts = []
        for start in range(0, len(texts), _TEXTS_AT_A_TIME):
            inputs = processor(texts[start : start + _TEXTS_AT_A_TIME], "document")
            parts.append(TokenVectors.from_padded(read(inputs), inputs["token_mask"]))
        return TokenVectors.cat(parts)

    def by_teacher(self, texts: list[str], cell: TestCell) -> list[list[Hit]]:
        """What the teacher finds."""
        return self.by_vectors(self.teacher.encode_queries(texts), cell)

    def by_vectors(
        self, vectors: list[torch.Tensor] | torch.Tensor, cell: TestCell, *, dense: bool = False
    ) -> list[list[Hit]]:
        """The documents of highest MaxSim."""
        identifiers = list(self.inputs.test_set(cell.test, cell.language).corpus)
        return search(vectors, self.document_vectors(cell, dense=dense), DEPTH, document_ids=identifiers)

    def dictionary(self, cell: TestCell, corpus: str | None = None) -> Dictionary:
        """Words of the cell's language -> English words, learned from the cell's pairs, or all those of `corpus`."""
        key = (corpus, cell.language) if corpus else (cell.corpus, cell.language, cell.size, cell.seed)
        settings = {n: v for n, v in cell.method.settings.items() if n in ("translations", "min_probability")}

        def learn() -> Dictionary:
            drawn = (corpus,) if corpus else (cell.corpus,)
            pairs = self.inputs.pairs(*drawn, cell.language, *(() if corpus else (cell.size, cell.seed)))
            tokenizer = self.teacher.processor.tokenizer
            return learn_dictionary(
                pairs, tokenizer, cell.language, TEACHER_LANGUAGE, reverse=True, **({} if corpus else settings)
            )

        return self.keep("corpus dictionary" if corpus else "dictionary", (key, tuple(settings.items())), learn)

    def train(self, cell: TrainingCell) -> dict[str, Any]:
        """Trains, and leaves what was trained in the cell's folder: what is to be told of the run."""
        folder = self.store.folder_of(cell.key)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        told: dict[str, Any] = {"pairs": cell.pairs, "train_seconds": 0.0}
        with tempfile.TemporaryDirectory() as output_dir:
            if cell.method.kind == "dense_peer":
                start = time.perf_counter()
                self._train_peer(cell, folder, output_dir)
                told["train_seconds"] = time.perf_counter() - start
            else:
                trainer = self._trainer(cell, self.config.training_settings(cell.method), output_dir)
                if cell.method.kind == "trained":
                    metrics = trainer.train().metrics
                    # Without what the teacher read before, for this run or for another.
                    told |= {"train_seconds": metrics["train_runtime"], "train_loss": metrics["train_loss"]}
                told["steps"] = trainer.state.global_step
                trainer.save_model(str(folder))
                # It refers to itself in circles, and holds the student.
                del trainer
        gc.collect()
        return told

    def _pairs(self, cell: TrainingCell) -> dict[str, Dataset]:
        return {code: self.inputs.pairs(cell.corpus, code, cell.size, cell.seed) for code in cell.languages}

    def _trainer(self, cell: TrainingCell, settings: dict[str, Any], output_dir: str) -> OTDistillationTrainer:
        args = training_arguments(
            settings,
            cell.languages,
            output_dir=output_dir,
            seed=_SEED if cell.seed is None else cell.seed,
            cache_teacher=True,
            teacher_cache_dir=str(self.store.teacher_cache),
        )
        trainer = OTDistillationTrainer(
            model=OpticalModel.from_pretrained(self.config.student).to(args.device),
            teacher=self.teacher.model,
            args=args,
            train_dataset=self._pairs(cell),
            processing_class=OpticalProcessor.from_pretrained(self.config.student),
            teacher_processing_class=self.teacher.processor,
            triples=load_triples(settings["triples"]) if settings.get("triples") else None,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _train_peer(self, cell: TrainingCell, folder: Path, output_dir: str) -> None:
        """The peer trains one model for all languages of the cell."""
        settings = dict(cell.method.settings)
        student = self.config.student
        if new_words := settings.pop("new_words", None):
            # The words that our own packs add, merged into a plain model, untrained.
            own = {**self.config.training, "method": "ot", "new_words": new_words, "shared_pack": _PEER}
            pack = self._trainer(cell, own, output_dir).language_pack()
            retriever = OpticalRetriever.from_pretrained(student, device="cpu")
            retriever.add_language(_PEER, pack)
            student = Path(output_dir) / "student"
            retriever.merge(_PEER).save_pretrained(student)
        rows = [
            {"translation": {TEACHER_LANGUAGE: pair[TEACHER_LANGUAGE], _PEER: pair[code]}}
            for code, pairs in self._pairs(cell).items()
            for pair in pairs["translation"]
        ]
        # That library tells much of what it does, and has bars of its own.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            train_dense_peer(
                student,
                self.config.teacher,
                Dataset.from_list(rows),
                _PEER,
                output_dir=folder,
                seed=_SEED if cell.seed is None else cell.seed,
                use_cpu=bool(self.config.training.get("use_cpu")),
                disable_tqdm=True,
                logging_strategy="no",
                **settings,
            )

    def ask(self, cell: TestCell) -> dict[str, dict[str, float]]:
        """Measure -> query id -> value."""
        dataset = self.inputs.test_set(cell.test, cell.language)
        queries = self.queries(cell)
        hits = self.system(cell)(list(queries.values()), cell)
        run = run_from_hits(dataset.drop_identical_ids(dict(zip(queries, hits, strict=True))))
        return per_query_metrics(dataset.qrels, run, self.config.measures)

    def queries(self, cell: TestCell) -> dict[str, str]:
        """What is asked in a cell: the queries, perturbed if that is what it is about; or their human translation."""
        dataset = self.inputs.test_set(cell.test, cell.language)
        if cell.method.kind == "ceiling" or cell.method.settings.get("translated") == "human":
            for query_id, query in dataset.queries.items():
                if not query.translation:
                    raise DataError(
                        f"query {query_id!r} of {dataset.name} has no human translation, which {cell.method.name} "
                        "asks; leave the method out, or add `metadata.translation`"
                    )
            return {query_id: query.translation for query_id, query in dataset.queries.items()}
        queries = {query_id: query.text for query_id, query in dataset.queries.items()}
        if cell.perturbation is None:
            return queries
        dictionary = None
        if cell.perturbation == "code_mixing":
            corpus = self.inputs.corpus_with(cell.language)
            if corpus is None:
                raise DataError(f"code_mixing needs sentence pairs for {cell.language!r}; name a corpus that has them")
            dictionary = self.dictionary(cell, corpus)
        return perturb_queries(queries, cell.perturbation, cell.strength, seed=SAMPLE_SEED, dictionary=dictionary)

    def system(self, cell: TestCell) -> System:
        """What answers the queries of a cell."""
        key = (cell.method, cell.training, cell.language, cell.corpus, cell.size, cell.seed)
        return self.keep("system", str(key), lambda: _SYSTEMS[cell.method.kind](self, cell))

    def _zero_shot(self, cell: TestCell) -> System:
        student = OpticalRetriever.from_pretrained(self.config.student, device=self.device)
        return lambda texts, now: self.by_vectors(student.encode_queries(texts), now)

    def _ceiling(self, cell: TestCell) -> System:
        return self.by_teacher

    def _trained(self, cell: TestCell) -> System:
        folder = self.store.folder_of(cell.training.key)
        args = training_arguments(self.config.training_settings(cell.method), cell.training.languages)
        if args.train_all_weights:
            student = OpticalRetriever.from_pretrained(folder, device=self.device)
        else:
            pack = args.folder_of(args.pack_of(cell.language), folder)
            student = OpticalRetriever.from_pretrained(pack, base_model=self.config.student, device=self.device)
        return lambda texts, now: self.by_vectors(student.encode_queries(texts), now)

    def _lexicon(self, cell: TestCell) -> System:
        translate = LexiconTranslator(self.dictionary(cell))
        return lambda texts, now: self.by_teacher(translate(texts), now)

    def _translation(self, cell: TestCell) -> System:
        translate = self._translator(cell, cell.method.settings["model"])
        return lambda texts, now: self.by_teacher(translate(texts), now)

    def _translator(self, cell: TestCell, model: str) -> Callable[[list[str]], list[str]]:
        given = cell.method.settings
        codes = given.get("source_language")
        source = codes.get(cell.language) if isinstance(codes, dict) else codes
        return Seq2SeqTranslator.from_pretrained(
            model,
            source or cell.language,
            given.get("target_language", TEACHER_LANGUAGE),
            device=self.device,
            **{name: given[name] for name in given if name in ("prefix", "batch_size", "num_beams", "max_length")},
        )

    def _bm25(self, cell: TestCell) -> System:
        translate: Callable[[list[str]], list[str]] = list
        if "translator" in cell.method.settings:
            translate = self._translator(cell, cell.method.settings["translator"])
        elif cell.method.reads_pairs:
            translate = LexiconTranslator(self.dictionary(cell))

        unstemmed = cell.method.settings.get("stemmer") == "none"

        def find(texts: list[str], now: TestCell) -> list[list[Hit]]:
            dataset = self.inputs.test_set(now.test, now.language)

            def index() -> BM25:
                stemmer = None if unstemmed else english_stemmer()
                return BM25(dataset.document_texts(), list(dataset.corpus), stemmer=stemmer)

            return self.keep("bm25", (now.test, now.language, unstemmed), index).search(translate(texts), DEPTH)

        return find

    def _dense_peer(self, cell: TestCell) -> System:
        peer = self._dense(self.store.folder_of(cell.training.key))

        def find(texts: list[str], now: TestCell) -> list[list[Hit]]:
            # One vector a text: MaxSim is the cosine.
            return self.by_vectors(peer(texts), now, dense=True)

        return find

    def _dense(self, name: str | Path) -> Callable[[list[str]], torch.Tensor]:
        """A sentence encoder: texts -> unit vectors of shape `(texts, 1, dim)`."""
        model = open_dense(name, self.device)
        return lambda texts: dense_vectors(model, texts)


_SYSTEMS: dict[str, Callable[[Workbench, TestCell], System]] = {
    "zero_shot": Workbench._zero_shot,
    "ceiling": Workbench._ceiling,
    "trained": Workbench._trained,
    "untrained_pack": Workbench._trained,
    "lexicon": Workbench._lexicon,
    "translation": Workbench._translation,
    "bm25": Workbench._bm25,
    "dense_peer": Workbench._dense_peer,
}
