from __future__ import annotations

import difflib
import os
from pathlib import Path

from ...errors import DataError
from ..datasets import RetrievalDataset, load_beir
from .african import read_afriqa, read_ciral
from .derived import RawBenchmark, require_documents, sample_pool
from .libraries import IR_DATASETS, ir_datasets_names, is_installed, mteb_names, read_ir_datasets, read_mteb


_PUBLISHED = {"afriqa": read_afriqa, "ciral": read_ciral}
_LIBRARIES = {"ir_datasets": (read_ir_datasets, ir_datasets_names), "mteb": (read_mteb, mteb_names)}


def load_benchmark(
    name: str | os.PathLike,
    *,
    language: str | None = None,
    document_language: str | None = None,
    split: str | None = None,
    documents: int | None = None,
    seed: int = 0,
    folder: str | os.PathLike | None = None,
) -> RetrievalDataset:
    """
    Loads a public test set, downloading it when it is asked for the first time.

    | Name | What it is | Queries in | Documents in |
    |---|---|---|---|
    | `afriqa` | AfriQA, gold passages | `language` | English (French for Fon) |
    | `ciral` | CIRAL | English | `language` |
    | `clirmatrix` | CLIRMatrix, BI-139 base | `language` | `document_language`, else English |
    | `miracl`, `mr-tydi` | MIRACL, Mr. TyDi | `language` | `language` |
    | `mmarco` | mMARCO, version 2 | `language` | `document_language`, else `language` |
    | `msmarco` | MS MARCO passages | English | English |
    | `neuclir` | NeuCLIR, collection 1 | English | `language` |
    | `wikiclir` | WikiCLIR | English | `language` |
    | `beir/scifact/test` | any id of `ir_datasets` | | |
    | `XQuADRetrieval` | any text retrieval task of `mteb` | `language` | `document_language` |
    | a path | a folder in BEIR layout, see [`load_beir`] | | |

    Where two keepers know a name, `ir_datasets:NAME` or `mteb:NAME` says which is meant.

    Args:
        name (`str` or `os.PathLike`):
            A name of the table; [`benchmark_names`] lists all.
        language (`str`, *optional*):
            Code of the language, as the benchmark has it (`"ha"`), where it has several. For `mteb` a code of two or
            three letters, with or without its script, or the name of a subset (`"eng_Latn-hau_Latn"`).
        document_language (`str`, *optional*):
            Language of the documents, where it can be chosen. If the questions are the same in both languages, those
            in `language` are asked over the documents in `document_language`, with the wording in that language as
            their translation.
        split (`str`, *optional*):
            Which judgements. Defaults to those that are usually reported.
        documents (`int`, *optional*):
            Keep so many documents (at least 1), as [`sample_pool`] does, without ever holding the others.
        seed (`int`, defaults to 0):
            Which sample of documents.
        folder (`str` or `os.PathLike`, *optional*):
            For `afriqa` and `ciral`: where their files are already, laid out as they were published. For `ciral` the
            files of both its repositories, `CIRAL/ciral` and `CIRAL/ciral-corpus`.

    Returns:
        [`RetrievalDataset`]: the queries that are judged, with their human translations where the set has them.

    Raises:
        DataError: the benchmark, its language or its split is unknown; the message lists what there is.
        ValueError: `documents` is below 1.
        ImportError: the library that keeps it is not installed, or broken; the message says how to install it.
        ConnectionError: `afriqa` or `ciral` could not be downloaded; the libraries raise errors of their own.
    """
    name = os.fspath(name)
    require_documents(documents)
    if folder is not None and name not in _PUBLISHED:
        raise DataError(f"folder goes with {' and '.join(_PUBLISHED)} only; for a set in BEIR layout name its path")
    if name in _PUBLISHED:
        if document_language is not None:
            raise DataError(f"document_language is {document_language!r}; {name} lets you choose language only")
        label, parts = _PUBLISHED[name](language, split, folder)
    elif name not in IR_DATASETS and Path(name).is_dir():
        if language is not None or document_language is not None:
            raise DataError(f"{name} is a folder, which has no languages to choose from; leave language out")
        dataset = load_beir(name, split or "test")
        return dataset if documents is None else sample_pool(dataset, documents, seed)
    else:
        label, parts = _from_libraries(name, language, document_language, split)
    return parts.assemble(label, documents, seed)


def benchmark_names() -> list[str]:
    """
    All names that [`load_benchmark`] knows: its own, then those of the libraries that are installed, as
    `ir_datasets:NAME` and `mteb:NAME`. CLIRMatrix has more ids than can be listed.
    """
    names = sorted([*_PUBLISHED, *IR_DATASETS])
    for library, (_, list_names) in _LIBRARIES.items():
        if is_installed(library):
            names += [f"{library}:{name}" for name in sorted(list_names())]
    return names


def _from_libraries(
    name: str, language: str | None, document_language: str | None, split: str | None
) -> tuple[str, RawBenchmark]:
    prefix, _, rest = name.partition(":")
    if name in IR_DATASETS:
        keepers, own = ["ir_datasets"], name
    elif prefix in _LIBRARIES:
        keepers, own = [prefix], rest
    else:
        keepers, own = [library for library in _LIBRARIES if is_installed(library)], name
    for keeper in keepers:
        read, _ = _LIBRARIES[keeper]
        found = read(own, language, document_language, split)
        if found is not None:
            return found
    raise _unknown(name)


def _unknown(name: str) -> DataError:
    """Names the benchmarks that are called nearly so."""
    bare = name.rpartition(":")[2].lower()
    known: dict[str, str] = {}
    for candidate in benchmark_names():
        known.setdefault(candidate.rpartition(":")[2].lower(), candidate)
    near = difflib.get_close_matches(bare, known, n=4, cutoff=0.5)
    near += [own for own in known if bare in own and own not in near][: 4 - len(near)]
    missing = [library for library in _LIBRARIES if not is_installed(library)]
    return DataError(
        f"there is no benchmark and no folder {name!r}; "
        + (f"did you mean {', '.join(known[own] for own in near)}? " if near else "")
        + "`benchmark_names()` lists all that are known here"
        + (f'. {" and ".join(missing)} would add more: pip install "hf_optical[benchmarks]"' if missing else "")
    )
