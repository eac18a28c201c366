from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

from ...checks import check_number
from ...errors import DataError
from ..datasets import BenchmarkParts, RetrievalDataset, read_beir
from .african import read_afriqa, read_ciral
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
    Load a public test set, downloading it on first use.

    | Name | Test set | Queries in | Documents in |
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

    If both libraries know a name, use `ir_datasets:NAME` or `mteb:NAME`.

    Args:
        name (`str` or `os.PathLike`): A name from the table; [`benchmark_names`] lists all.
        language (`str`, *optional*):
            Language code as in the benchmark (`"ha"`), if it has several. For `mteb`, a code of two or three letters,
            with or without its script, or the name of a subset (`"eng_Latn-hau_Latn"`).
        document_language (`str`, *optional*):
            Language of the documents, if there is a choice. If the questions are the same in both languages, the
            queries in `language` are combined with the documents in `document_language`, and the wording in that
            language becomes their human translation.
        split (`str`, *optional*): Split of the judgements. Defaults to the one that is usually reported.
        documents (`int`, *optional*):
            Keep only this many documents (at least 1), as in [`sample_pool`]. The others are never held in memory.
        seed (`int`, defaults to 0): Random seed of the sample.
        folder (`str` or `os.PathLike`, *optional*):
            Local copy of the files of `afriqa` or `ciral`, in their published layout. For `ciral`, the files of both
            repositories, `CIRAL/ciral` and `CIRAL/ciral-corpus`.

    Returns:
        [`RetrievalDataset`]: the judged queries, with human translations if there are any.

    Raises:
        DataError: a file is damaged, or the benchmark is unknown or does not have the options.
        ValueError: the language or the split is unknown, or `documents` is below 1. [`DataError`] is one too.
        ImportError: the library that distributes it is missing or broken. The message says how to install it.
        ConnectionError: `afriqa` or `ciral` cannot be downloaded. The libraries raise their own errors.
    """
    name = os.fspath(name)
    check_number("documents", 1 if documents is None else documents, at_least=1)
    given = {"language": language, "document_language": document_language, "split": split, "folder": folder}
    if name in _PUBLISHED:
        _check_options(name, given, ("language", "split", "folder"))
        parts = _PUBLISHED[name](language, split, folder)
    elif name not in IR_DATASETS and Path(name).is_dir():
        _check_options(f"the folder {name}", given, ("split",))
        parts = read_beir(name, split or "test")
    else:
        _check_options(name, given, ("language", "document_language", "split"))
        parts = _from_libraries(name, language, document_language, split)
    return parts.build(documents, seed)


def _check_options(name: str, given: dict[str, Any], allowed: tuple[str, ...]) -> None:
    unused = [option for option, value in given.items() if value is not None and option not in allowed]
    if unused:
        raise DataError(f"{name} takes the options {', '.join(allowed)}, not {', '.join(unused)}")


def benchmark_names() -> list[str]:
    """
    List the names that [`load_benchmark`] knows.

    Its own come first, then those of the installed libraries as `ir_datasets:NAME` and `mteb:NAME`. The ids of
    CLIRMatrix are not listed because there are too many.
    """
    names = sorted([*_PUBLISHED, *IR_DATASETS])
    for library, (_, list_names) in _LIBRARIES.items():
        if is_installed(library):
            names += [f"{library}:{name}" for name in sorted(list_names())]
    return names


def _from_libraries(
    name: str, language: str | None, document_language: str | None, split: str | None
) -> BenchmarkParts:
    prefix, _, rest = name.partition(":")
    if name in IR_DATASETS:
        libraries, own = ["ir_datasets"], name
    elif prefix in _LIBRARIES:
        libraries, own = [prefix], rest
    else:
        libraries, own = [library for library in _LIBRARIES if is_installed(library)], name
    for library in libraries:
        read, _ = _LIBRARIES[library]
        parts = read(own, language, document_language, split)
        if parts is not None:
            return parts
    raise _unknown(name)


def _unknown(name: str) -> DataError:
    """Error for an unknown name, with similar names."""
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
        + "`benchmark_names()` lists all known names"
        + (f'. {" and ".join(missing)} would add more: pip install "hf_optical[benchmarks]"' if missing else "")
    )
