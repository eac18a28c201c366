"""Test sets from the optional libraries `ir_datasets` and `mteb`."""

from __future__ import annotations

import importlib.util
import os
import random
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...checks import check_choice, import_optional
from ...errors import DataError
from ..datasets import BenchmarkParts, Document, Query
from .derived import across_languages


if TYPE_CHECKING:
    from mteb.abstasks import AbsTaskRetrieval

# Short name -> id, and the default split.
IR_DATASETS = {
    "clirmatrix": ("clirmatrix/{document_language}/bi139-base/{language}/{split}", "test1"),
    "miracl": ("miracl/{language}/{split}", "dev"),
    "mmarco": ("mmarco/v2/{language}/{split}", "dev/small"),
    "mr-tydi": ("mr-tydi/{language}/{split}", "test"),
    "msmarco": ("msmarco-passage/{split}", "dev/small"),
    "neuclir": ("neuclir/1/{language}/{split}", "trec-2023"),
    "wikiclir": ("wikiclir/{language}", None),
}

_NO_WARNING = "IR_DATASETS_SKIP_DEPRECATED_WARNING"

# mteb tasks whose subsets name the document language first; the others name the query language first.
_DOCUMENTS_FIRST = {"BelebeleRetrieval", "MLQARetrieval", "XPQARetrieval"}

# mteb tasks with the same questions, under the same ids, in every language.
_PARALLEL = (
    "XQuADRetrieval",
    "MMarcoRetrievalMultilingual",
    "MuPLeR-retrieval",
    "EuroPIRQRetrieval",
    "MultilingualNano",
)

# mteb uses ISO 639-3, and for a macrolanguage either its own code or that of its main member.
_ISO_639_3 = {
    code: tuple(longer.split("/"))
    for code, longer in (
        pair.split(":")
        for pair in (
            "af:afr am:amh ar:ara/arb as:asm az:aze/azj be:bel bg:bul bm:bam bn:ben bo:bod bs:bos ca:cat cs:ces "
            "cy:cym da:dan de:deu el:ell en:eng es:spa et:est/ekk eu:eus fa:fas/pes ff:ful/fuv fi:fin fr:fra ga:gle "
            "gl:glg gn:grn gu:guj ha:hau he:heb hi:hin hr:hrv ht:hat hu:hun hy:hye id:ind ig:ibo is:isl it:ita "
            "ja:jpn jv:jav ka:kat kk:kaz km:khm kn:kan ko:kor ky:kir lg:lug ln:lin lo:lao lt:lit lv:lav/lvs "
            "mg:mlg/plt mi:mri mk:mkd ml:mal mn:mon/khk mr:mar ms:msa/zsm mt:mlt my:mya ne:nep/npi nl:nld "
            "no:nor/nob ny:nya om:orm/gaz or:ori/ory pa:pan pl:pol ps:pus/pbt pt:por ro:ron ru:rus rw:kin sd:snd "
            "si:sin sk:slk sl:slv sn:sna so:som sq:sqi/als sr:srp ss:ssw st:sot su:sun sv:swe sw:swa/swh ta:tam "
            "te:tel tg:tgk th:tha ti:tir tl:tgl tn:tsn tr:tur ts:tso uk:ukr ur:urd uz:uzb/uzn vi:vie wo:wol xh:xho "
            "yo:yor zh:zho zu:zul"
        ).split()
    )
}


def import_library(name: str) -> ModuleType:
    """Import `ir_datasets`, mteb or a module of theirs, or raise `ImportError` with the cure."""
    with _kept_random_state():
        return import_optional(name, "benchmarks")


@contextmanager
def _kept_random_state() -> Iterator[None]:
    """Restore the global random state, because mteb sets all seeds to 42 on import and for every task."""
    python, arrays, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(cpu)
        if devices is None:
            torch.cuda.manual_seed_all(torch.initial_seed())  # takes effect when CUDA is initialized
        else:
            torch.cuda.set_rng_state_all(devices)


def is_installed(name: str) -> bool:
    """Whether an optional library is installed. [`import_library`] reports one that is broken."""
    return importlib.util.find_spec(name) is not None


def ir_datasets_names() -> list[str]:
    """List the ids that have documents, queries and judgements. Those of CLIRMatrix are created on demand."""
    registry = import_library("ir_datasets").registry
    before = os.environ.get(_NO_WARNING)
    os.environ[_NO_WARNING] = "true"  # avoids a message for every deprecated id
    try:
        datasets = {name: registry[name] for name in registry}
    finally:
        if before is None:
            del os.environ[_NO_WARNING]
        else:
            os.environ[_NO_WARNING] = before
    return [name for name, own in datasets.items() if not hasattr(own, "deprecated") and not _lacking(own)]


def mteb_names() -> list[str]:
    """List the retrieval tasks that are text only."""
    return list(_mteb_tasks())


def _mteb_tasks() -> dict[str, type[AbsTaskRetrieval]]:
    # `mteb.get_tasks` instantiates every task, which is slow.
    tasks = {own.metadata.name: own for own in vars(import_library("mteb").tasks).values() if hasattr(own, "metadata")}
    return {
        name: own
        for name, own in tasks.items()
        if own.metadata.type == "Retrieval" and list(own.metadata.modalities) == ["text"]
    }


def read_ir_datasets(
    name: str, language: str | None, document_language: str | None, split: str | None
) -> BenchmarkParts | None:
    """Read a test set by its id, or by a short name and a language. Returns `None` if the id is unknown."""
    library = import_library("ir_datasets")
    if name not in IR_DATASETS:
        if _find(library, name) is None:
            return None
        if language is not None or document_language is not None:
            raise DataError(f"{name} includes its language, got language {language or document_language!r} as well")
        return _ir_datasets_parts(library, name if split is None else f"{name}/{split}")
    if document_language is not None and name not in ("clirmatrix", "mmarco"):
        raise DataError(f"document_language applies to clirmatrix and mmarco only, got {document_language!r}")
    parts = _ir_datasets_parts(library, _identifier(library, name, language, document_language, split))
    if name != "mmarco" or document_language in (None, language):
        return parts
    # mMARCO is a translation of MS MARCO, which has the English documents.
    english = document_language == "en"
    other = _identifier(library, "msmarco" if english else name, None if english else document_language, None, split)
    return across_languages(parts, _ir_datasets_parts(library, other))


def _find(library: ModuleType, identifier: str) -> Any | None:
    try:
        return library.load(identifier)
    except KeyError:
        return None


def _identifier(
    library: ModuleType, name: str, language: str | None, document_language: str | None, split: str | None
) -> str:
    template, default = IR_DATASETS[name]
    wanted = "{language}" in template
    identifier = template.format(
        language=language, document_language=document_language or "en", split=split or default
    )
    if (language is not None) == wanted and _find(library, identifier) is not None:
        return identifier
    start = template.partition("{")[0]
    known = [own.removeprefix(start).partition("/") for own in ir_datasets_names() if own.startswith(start)]
    languages = ", ".join(sorted({own for own, _, _ in known})) or "those of its site"
    splits = ", ".join(rest if wanted else own + slash + rest for own, slash, rest in known if language in (own, None))
    hint = f"; languages: {languages}" if wanted else "; it has one language, leave language out" if language else ""
    hint += f"; splits: {splits}" if splits and (language or not wanted) else ""
    raise DataError(f"ir_datasets has no {identifier} (language {language!r}, split {split!r} of {name}){hint}")


def _ir_datasets_parts(library: ModuleType, identifier: str) -> BenchmarkParts:
    dataset = _find(library, identifier)
    if dataset is None or (lacking := _lacking(dataset)):
        problem = "does not exist" if dataset is None else f"has no {' and no '.join(lacking)}"
        start = identifier.rpartition("/")[0] if dataset is None else identifier
        whole = ", ".join(name for name in ir_datasets_names() if name.startswith(f"{start}/"))
        raise DataError(f"{identifier} of ir_datasets {problem}" + (f"; choose one of {whole}" if whole else ""))
    queries = {  # NeuCLIR and HC4 have human translations
        row.query_id: Query(_default_text(row, identifier), getattr(row, "ht_title", None) or None)
        for row in dataset.queries_iter()
    }
    qrels: dict[str, dict[str, int]] = {}
    for row in dataset.qrels_iter():
        # The best judgement counts if a document is judged for several aspects of a query.
        judgements = qrels.setdefault(row.query_id, {})
        judgements[row.doc_id] = max(int(row.relevance), judgements.get(row.doc_id, int(row.relevance)))
    # BEIR's own evaluator ignores identical ids in every test set.
    ignore_identical_ids = identifier.startswith("beir/")
    return BenchmarkParts(identifier, _ir_documents(dataset, identifier), queries, qrels, ignore_identical_ids)


def _lacking(dataset: Any) -> list[str]:
    return [kind for kind in ("docs", "queries", "qrels") if not dataset.has(kind)]


def _ir_documents(dataset: Any, identifier: str) -> Iterator[tuple[str, Document]]:
    for row in dataset.docs_iter():
        text, title = _default_text(row, identifier), getattr(row, "title", None) or ""
        if not text.startswith(title):
            title = ""
        yield row.doc_id, Document(title, text.removeprefix(title).strip())


def _default_text(row: Any, identifier: str) -> str:
    text = row.default_text() if hasattr(row, "default_text") else getattr(row, "text", None)
    if not isinstance(text, str):
        raise DataError(f"{identifier}: {type(row).__name__} has no default text")
    return text


def read_mteb(
    name: str, language: str | None, document_language: str | None, split: str | None
) -> BenchmarkParts | None:
    """Read a retrieval task of mteb by its name; see [`load_benchmark`]. Returns `None` if it is unknown."""
    task = _mteb_tasks().get(name)
    if task is None:
        return None
    splits = task.metadata.eval_splits
    split = split or ("test" if "test" in splits else splits[0])
    check_choice(f"split of {name}", split, splits)
    subsets = _mteb_subsets(task.metadata, language, document_language)
    loaded = [_mteb_parts(name, subset, split) for subset in subsets]
    parts = loaded[0] if len(loaded) == 1 else across_languages(*loaded)
    label = [] if subsets == ["default"] else [" over ".join(subsets)]
    return replace(parts, name="/".join([name, *label, split]))


def _mteb_subsets(metadata: Any, language: str | None, document_language: str | None) -> list[str]:
    """Return the matching subset, or two: the one with the queries and the one with the documents."""
    languages = metadata.hf_subsets_to_langscripts
    if language is None and document_language is None and len(languages) == 1:
        return list(languages)
    if language is not None and language in languages and document_language is None:
        return [language]

    def matching(queries: str | None, documents: str | None) -> list[str]:
        found = []
        for subset, codes in languages.items():
            ends = (codes[-1], codes[0]) if metadata.name in _DOCUMENTS_FIRST else (codes[0], codes[-1])
            wanted = zip((queries, documents), ends, strict=True)
            if all(code is None or code == subset or _same_language(code, known) for code, known in wanted):
                found.append(subset)
        return found

    meant = matching(language, document_language) if language else []
    if language and document_language and not meant and metadata.name.startswith(_PARALLEL):
        sides = [matching(code, code) for code in (language, document_language)]
        if all(len(side) == 1 for side in sides):
            return [side[0] for side in sides]
    if len(meant) != 1:
        listed = ", ".join(meant or languages)
        raise DataError(
            f"language {language!r} and document_language {document_language!r} match {len(meant)} subsets of "
            f"{metadata.name}; pass one as language: {textwrap.shorten(listed, 800)}"
        )
    return meant


def _same_language(code: str, known: str) -> bool:
    """Whether `code` ("ha", "hau", "hau_Latn") is the language that mteb calls `known` ("hau-Latn")."""
    own, _, script = code.replace("_", "-").partition("-")
    language, _, known_script = known.partition("-")
    return language in _ISO_639_3.get(own, (own,)) and script in ("", known_script)


def _mteb_parts(name: str, subset: str, split: str) -> BenchmarkParts:
    with _kept_random_state():
        task = import_library("mteb").get_task(name, eval_splits=[split], hf_subsets=[subset])
        task.load_data()
        # Older tasks fill `queries`, `corpus` and `relevant_docs`.
        task.convert_v1_dataset_format_to_v2(num_proc=None)
    data = task.dataset[subset][split]
    where = f"{name}/{subset}/{split}"
    queries = dict(zip(data["queries"]["id"], map(Query, mteb_texts(data["queries"], where)), strict=True))
    documents = ((row["id"], Document(row.get("title") or "", row["text"])) for row in data["corpus"])
    return BenchmarkParts(where, documents, queries, data["relevant_docs"], task.ignore_identical_ids)


def mteb_texts(queries: Any, where: str) -> list[str]:
    """Texts of the queries as mteb passes them to a model: text, then instruction."""
    texts = list(queries["text"])
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"{where} must have plain text queries, got conversations")
    if "instruction" not in queries.column_names:
        return texts
    return [
        text if instruction is None else f"{text} {instruction}"
        for text, instruction in zip(texts, queries["instruction"], strict=True)
    ]
