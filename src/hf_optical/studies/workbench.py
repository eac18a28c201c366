"""Training the methods of a study and running its queries with them."""

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
from ..training.data import read_english
from ..training.projection import project_student
from ..training.teacher import TeacherVectors
from .peers import Encoders, dense_vectors, late_interaction_encoders, open_dense, sentence_encoders, train_dense_peer
from .plan import Inputs, TestCell, TrainingCell
from .runs import read_run, write_run
from .settings import SAMPLE_SEED, TEACHER_LANGUAGE, TUNED, StudyConfig, existing, training_arguments
from .store import Store, key_of


# Length of the rankings, as in TREC.
DEPTH = 1000
_DEFAULT_SEED = 42
_ENCODE_BATCH = 256
# Language code of the dense peer, which is one model for all languages.
_PEER = "peer"

# Queries of a test cell -> ranking of each.
System = Callable[[list[str], TestCell], list[list[Hit]]]


class Workbench:
    """Trains and evaluates the methods of one study. The teacher and the latest systems stay in memory."""

    def __init__(self, config: StudyConfig, inputs: Inputs, store: Store):
        self.config, self.inputs, self.store = config, inputs, store
        self.device = "cpu" if config.training.get("use_cpu") else None
        # Time for document vectors, which many cells share.
        self.encoding_seconds = 0.0
        self._kept: dict[str, tuple[Any, Any]] = {}

    def keep(self, kind: str, key: Any, make: Callable[[], Any]) -> Any:
        """The value of `make()`, kept until the same kind is needed with another key."""
        if kind not in self._kept or self._kept[kind][0] != key:
            self._kept.pop(kind, None)  # frees memory first
            self._kept[kind] = key, make()
        return self._kept[kind][1]

    @property
    def teacher(self) -> OpticalRetriever:
        name = self.config.teacher
        return self.keep("teacher", name, lambda: OpticalRetriever.from_pretrained(name, device=self.device))

    def document_vectors(self, cell: TestCell, *, dense: bool = False) -> TokenVectors:
        """The teacher's token vectors of the documents of a test set, or with `dense` its sentence vectors."""
        texts = self.inputs.test_set(cell.test, cell.language).document_texts()
        roles = None if dense else self.teacher.processor.roles
        key = key_of({"stage": "documents", "texts": texts, "teacher": self.inputs.models["teacher"], "roles": roles})

        def encode() -> TokenVectors:
            if dense:
                return TokenVectors.from_padded(self._dense(self.config.teacher)(texts).cpu())
            return self._encode_documents(texts)

        start = time.perf_counter()
        vectors = self.keep("documents", key, lambda: self.store.vectors(key, encode))
        self.encoding_seconds += time.perf_counter() - start
        return vectors

    def _encode_documents(self, texts: list[str]) -> TokenVectors:
        """Encode documents; those shared by several test sets are encoded once."""
        model, processor = self.teacher.model, self.teacher.processor
        cache = self.store.folder / "documents" / "teacher"
        read = TeacherVectors.prepare(model, processor, texts, ("document",), cache, show_progress=False)
        parts = []
        for start in range(0, len(texts), _ENCODE_BATCH):
            inputs = processor(texts[start : start + _ENCODE_BATCH], "document")
            parts.append(TokenVectors.from_padded(read(inputs), inputs["token_mask"]))
        return TokenVectors.cat(parts)

    def search_with_teacher(self, texts: list[str], cell: TestCell) -> list[list[Hit]]:
        """Search with the teacher's query vectors."""
        return self.search(self.teacher.encode_queries(texts), cell)

    def search(
        self, vectors: list[torch.Tensor] | torch.Tensor, cell: TestCell, *, dense: bool = False
    ) -> list[list[Hit]]:
        """Documents with the highest MaxSim."""
        identifiers = list(self.inputs.test_set(cell.test, cell.language).corpus)
        return search(vectors, self.document_vectors(cell, dense=dense), DEPTH, document_ids=identifiers)

    def dictionary(self, cell: TestCell) -> Dictionary:
        """Words of the cell's language -> English words, learned from the cell's sentence pairs."""
        settings = {n: v for n, v in cell.method.settings.items() if n in ("translations", "min_probability")}
        pairs = (cell.corpus, cell.language, cell.size, cell.seed)
        return self._dictionary("dictionary", pairs, reverse=True, **settings)

    def _dictionary(self, kind: str, pairs: tuple, **settings: Any) -> Dictionary:
        def learn() -> Dictionary:
            tokenizer, language = self.teacher.processor.tokenizer, pairs[1]
            return learn_dictionary(self.inputs.pairs(*pairs), tokenizer, language, TEACHER_LANGUAGE, **settings)

        return self.keep(kind, (pairs, tuple(settings.items())), learn)

    def train(self, cell: TrainingCell) -> dict[str, Any]:
        """Train, save the model in the cell's folder, and return the numbers of the run."""
        folder = self.store.folder_of(cell.key)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        results: dict[str, Any] = {"pairs": cell.pairs, "train_seconds": 0.0}
        with tempfile.TemporaryDirectory() as output_dir:
            if cell.method.kind == "dense_peer":
                start = time.perf_counter()
                self._train_peer(cell, folder, output_dir)
                results["train_seconds"] = time.perf_counter() - start
            else:
                trainer = self._trainer(cell, self.config.training_settings(cell.method), output_dir)
                if cell.method.kind == "trained":
                    metrics = trainer.train().metrics
                    # Excludes the teacher's encoding, which runs share.
                    results |= {"train_seconds": metrics["train_runtime"], "train_loss": metrics["train_loss"]}
                results["steps"] = trainer.state.global_step
                trainer.save_model(str(folder))
                # Its reference cycles hold the student.
                del trainer
        gc.collect()
        return results

    def _pairs(self, cell: TrainingCell) -> dict[str, Dataset]:
        return {code: self.inputs.pairs(cell.corpus, code, cell.size, cell.seed) for code in cell.languages}

    def _trainer(self, cell: TrainingCell, settings: dict[str, Any], output_dir: str) -> OTDistillationTrainer:
        args = training_arguments(
            settings,
            cell.languages,
            output_dir=output_dir,
            seed=_seed_of(cell),
            cache_teacher=True,
            teacher_cache_dir=str(self.store.teacher_cache),
        )
        files = settings.get("english_file") or {}
        english = dict.fromkeys(files[code] for code in cell.languages if files)
        trainer = OTDistillationTrainer(
            model=OpticalModel.from_pretrained(self.config.student).to(args.device),
            teacher=self.teacher.model,
            args=args,
            train_dataset=self._pairs(cell),
            processing_class=OpticalProcessor.from_pretrained(self.config.student),
            teacher_processing_class=self.teacher.processor,
            triples=load_triples(settings["triples"]) if settings.get("triples") else None,
            english_texts=[text for file in english for text in read_english(file)],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def _train_peer(self, cell: TrainingCell, folder: Path, output_dir: str) -> None:
        """Train one dense model for all languages of the cell."""
        settings = dict(cell.method.settings)
        student: str | Path = settings.pop("model", None) or self.config.student
        if new_words := settings.pop("new_words", None):
            # A plain model with the new words that our packs add, untrained.
            own = {**self.config.training, "method": "ot", "new_words": new_words, "shared_pack": _PEER}
            pack = self._trainer(cell, {**own, "fit_projection": False}, output_dir).language_pack()
            retriever = OpticalRetriever.from_pretrained(student, device="cpu")
            retriever.add_language(_PEER, pack)
            student = Path(output_dir) / "student"
            retriever.merge(_PEER).save_pretrained(student)
        rows = [
            {"translation": {TEACHER_LANGUAGE: pair[TEACHER_LANGUAGE], _PEER: pair[code]}}
            for code, pairs in self._pairs(cell).items()
            for pair in pairs["translation"]
        ]
        # The library prints messages and progress bars.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            train_dense_peer(
                student,
                self.config.teacher,
                Dataset.from_list(rows),
                _PEER,
                output_dir=folder,
                seed=_seed_of(cell),
                use_cpu=bool(self.config.training.get("use_cpu")),
                disable_tqdm=True,
                logging_strategy="no",
                **settings,
            )

    def evaluate(self, cell: TestCell) -> dict[str, dict[str, float]]:
        """Measure -> query id -> value."""
        dataset = self.inputs.test_set(cell.test, cell.language)
        queries = self.queries(cell)
        hits = self.system(cell)(list(queries.values()), cell)
        rankings = dataset.drop_identical_ids(dict(zip(queries, hits, strict=True)))
        if self.config.keep_runs:
            write_run(self.store.run_file(cell.key), rankings, cell.method.name)
        return per_query_metrics(dataset.qrels, run_from_hits(rankings), self.config.measures)

    def queries(self, cell: TestCell) -> dict[str, str]:
        """Queries of a cell: perturbed if the cell has a perturbation, or their human translations."""
        dataset = self.inputs.test_set(cell.test, cell.language)
        if cell.method.human_translations:
            missing = [query_id for query_id, query in dataset.queries.items() if not query.translation]
            if missing:
                raise DataError(
                    f"query {missing[0]!r} of {dataset.name} has no human translation, which {cell.method.name} "
                    "needs; add `metadata.translation` or remove the method"
                )
            return {query_id: query.translation or "" for query_id, query in dataset.queries.items()}
        queries = {query_id: query.text for query_id, query in dataset.queries.items()}
        if cell.perturbation is None:
            return queries
        dictionary = None
        if cell.perturbation == "code_mixing":
            corpus = self.inputs.corpus_with(cell.language)
            if corpus is None:
                raise DataError(f"code_mixing needs sentence pairs in {cell.language!r}; add a corpus that has them")
            dictionary = self._dictionary("corpus dictionary", (corpus, cell.language), reverse=True)
        return perturb_queries(queries, cell.perturbation, cell.strength, seed=SAMPLE_SEED, dictionary=dictionary)

    def system(self, cell: TestCell) -> System:
        """The system of a cell, made by the method of this class named after its kind."""
        key = (cell.method, cell.training, cell.language, cell.corpus, cell.size, cell.seed)
        return self.keep("system", str(key), lambda: getattr(self, f"_{cell.method.kind}")(cell))

    def _zero_shot(self, cell: TestCell) -> System:
        if not (corpus := self.inputs.projecting_corpus(cell.language)):
            return self._student(self.config.student)
        with tempfile.TemporaryDirectory() as output_dir:
            args = training_arguments(self.config.training, [cell.language], output_dir=output_dir)
        student = OpticalRetriever.from_pretrained(self.config.student, device=self.device)
        teacher, pairs = self.teacher, {cell.language: self.inputs.pairs(corpus, cell.language)}
        student.model, _ = project_student(
            args, student.model, student.processor, teacher.model, teacher.processor, pairs
        )
        return lambda texts, now: self.search(student.encode_queries(texts), now)

    def _trained(self, cell: TestCell) -> System:
        assert cell.training is not None
        folder = self.store.folder_of(cell.training.key)
        args = training_arguments(self.config.training_settings(cell.method), cell.training.languages)
        if args.train_all_weights:
            return self._student(folder)
        pack = args.folder_of(args.pack_of(cell.language), folder)
        student = OpticalRetriever.from_pretrained(pack, device=self.device, base_model=self.config.student)
        strength = cell.method.settings.get("test_strength")
        learned: list[tuple[str, str]] = []

        def find(texts: list[str], now: TestCell) -> list[list[Hit]]:
            if learned != [(now.test, now.language)]:
                documents = self.inputs.test_set(now.test, now.language).document_texts()
                student.learn_spelling(documents)
                if strength == TUNED:
                    # Learned from the pairs, since a pack of a base that reads the language has no words of its own.
                    english = self._dictionary("English", (cell.corpus, cell.language, cell.size, cell.seed))
                    vectors = self.document_vectors(now)
                    student.tune_strength(student.language, documents, dictionary=english, document_vectors=vectors)
                elif strength is not None:
                    student.set_strength(student.language, strength)
                learned[:] = [(now.test, now.language)]
            return self.search(student.encode_queries(texts), now)

        return find

    _untrained_pack = _trained

    def _ceiling(self, cell: TestCell) -> System:
        return self.search_with_teacher

    def _student(self, name: str | Path, **options: Any) -> System:
        student = OpticalRetriever.from_pretrained(name, device=self.device, **options)
        return lambda texts, now: self.search(student.encode_queries(texts), now)

    def _late_interaction(self, cell: TestCell) -> System:
        prompts = any(cell.method.settings.get(name) for name in ("query_prompt", "document_prompt"))
        if not prompts and self.inputs.models_of(cell.method)["student"] == self.inputs.models["teacher"]:
            # The teacher itself, whose documents every study encodes.
            return self.search_with_teacher
        return self._off_the_shelf(cell, late_interaction_encoders)

    def _sentence_vectors(self, cell: TestCell) -> System:
        return self._off_the_shelf(cell, sentence_encoders)

    def _off_the_shelf(self, cell: TestCell, opened: Callable[..., Encoders]) -> System:
        """Queries and documents by one model, which need not be that of the study."""
        prompts = {name: cell.method.settings.get(name) or "" for name in ("query_prompt", "document_prompt")}
        encoders = opened(cell.method.settings.get("model") or self.config.student, device=self.device, **prompts)
        model = self.inputs.models_of(cell.method)["student"]

        def find(texts: list[str], now: TestCell) -> list[list[Hit]]:
            dataset = self.inputs.test_set(now.test, now.language)
            documents = dataset.document_texts()
            key = key_of({"kind": now.method.kind, "texts": documents, "model": model, **prompts})
            start = time.perf_counter()
            vectors = self.keep(
                "documents", key, lambda: self.store.vectors(key, lambda: encoders.documents(documents))
            )
            self.encoding_seconds += time.perf_counter() - start
            return search(encoders.queries(texts), vectors, DEPTH, document_ids=list(dataset.corpus))

        return find

    def _run(self, cell: TestCell) -> System:
        def find(texts: list[str], now: TestCell) -> list[list[Hit]]:
            dataset = self.inputs.test_set(now.test, now.language)
            file = existing(now.method.settings["files"][now.test][now.language])
            run = read_run(file)
            found = [
                [hit for hit in run.get(query, ()) if hit.document in dataset.corpus][:DEPTH]
                for query in dataset.queries
            ]
            if not any(found):
                raise DataError(f"{file} ranks no document of {now.test} for any of its queries; check the ids")
            return found

        return find

    def _translated(self, translate: Callable[[list[str]], list[str]]) -> System:
        return lambda texts, now: self.search_with_teacher(translate(texts), now)

    def _lexicon(self, cell: TestCell) -> System:
        return self._translated(LexiconTranslator(self.dictionary(cell)))

    def _translation(self, cell: TestCell) -> System:
        return self._translated(self._translator(cell, cell.method.settings["model"]))

    def _translator(self, cell: TestCell, model: str) -> Callable[[list[str]], list[str]]:
        settings = cell.method.settings
        codes = settings.get("source_language")
        source = codes.get(cell.language) if isinstance(codes, dict) else codes
        return Seq2SeqTranslator.from_pretrained(
            model,
            source or cell.language,
            settings.get("target_language", TEACHER_LANGUAGE),
            device=self.device,
            **{n: v for n, v in settings.items() if n in ("prefix", "batch_size", "num_beams", "max_length")},
        )

    def _bm25(self, cell: TestCell) -> System:
        translate: Callable[[list[str]], list[str]] = list
        if "translator" in cell.method.settings:
            translate = self._translator(cell, cell.method.settings["translator"])
        elif cell.method.reads_pairs:
            translate = LexiconTranslator(self.dictionary(cell))
        stemmed = cell.method.settings.get("stemmer") != "none"

        def find(texts: list[str], now: TestCell) -> list[list[Hit]]:
            dataset = self.inputs.test_set(now.test, now.language)

            def index() -> BM25:
                stemmer = english_stemmer() if stemmed else None
                return BM25(dataset.document_texts(), list(dataset.corpus), stemmer=stemmer)

            return self.keep("bm25", (now.test, now.language, stemmed), index).search(translate(texts), DEPTH)

        return find

    def _dense_peer(self, cell: TestCell) -> System:
        assert cell.training is not None
        peer = self._dense(self.store.folder_of(cell.training.key))
        return lambda texts, now: self.search(peer(texts), now, dense=True)

    def _dense(self, name: str | Path) -> Callable[[list[str]], torch.Tensor]:
        """A sentence encoder: texts -> unit vectors of shape `(texts, 1, dim)`."""
        model = open_dense(name, self.device)
        return lambda texts: dense_vectors(model, texts)


def _seed_of(cell: TrainingCell) -> int:
    return _DEFAULT_SEED if cell.seed is None else cell.seed
