"""
Damaged and hostile files, and limits on the errors and memory that reading them may cost.

A check draws from `st.data()`. [`examine`] runs it on some examples in the fast tests, and for
`HF_OPTICAL_FUZZ_SECONDS` in the slow ones.
"""

from __future__ import annotations

import copy
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st

from hf_optical.errors import DataError


# CPU time of one slow test.
SECONDS = float(os.environ.get("HF_OPTICAL_FUZZ_SECONDS", "30"))

# Bytes and values that parsers tend to fail on.
_BYTES = [
    *(b"\x00", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc3", b"\xf4\x90\x80\x80", b"\x1a", b"\x85"),
    *(b"\n", b"\r", b"\r\n", b"\n\n", b"\t", b" ", b'"', b"'", b",", b":", b"{", b"}", b"[", b"]", b"\\", b"/", b"#"),
    *(b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"-1", b"0", b"9" * 5000, b'"\\ud800"', b"\\u0000", b"../"),
    *(b"[" * 20_000, b'{"a":' * 20_000, b"a" * 100_000, "\u2028\u202e\u200b".encode(), b"\x1f\x8b\x08", b"PK\x03\x04"),
    *(b"\xff" * 8, b"\x00" * 8, b"\x7f" + b"\xff" * 7),
]
_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 3, 2**31, 10**9, 10**30, 0.5, -0.0, float("nan"), float("inf")),
    *("", " ", "a", "\x00", "\ud800", "..", "../../x", "/etc/passwd", "a/b", "~", "\n", "é", "0", "null", "%s{0}"),
    *([], [[]], [None], [1, "a"], {}, {"": None}, {"a": {"a": []}}, "x" * 100_000),
]


@st.composite
def mutated_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """`content` after one to four edits: truncated, or bytes changed, inserted, removed or repeated."""
    for _ in range(draw(st.integers(1, 4))):
        # Most formats keep their structure in the header.
        limit = draw(st.sampled_from([16, 512, len(content)]))
        start = draw(st.integers(0, min(limit, len(content))))
        stop = min(len(content), start + draw(st.sampled_from([1, 2, 8, 100, len(content)])))
        edit = draw(st.sampled_from(["cut", "delete", "put", "replace", "double", "flip", "random"]))
        new = {"cut": b"", "delete": b"", "double": content[start:stop] * 2}.get(edit)
        if edit in ("put", "replace"):
            new = draw(st.sampled_from(_BYTES)) + (content[start:stop] if edit == "put" else b"")
        elif edit == "flip":
            new = bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in content[start : min(stop, start + 8)])
            stop = start + len(new)
        elif edit == "random":
            new = draw(st.binary(max_size=16))
        content = content[:start] + new + (b"" if edit == "cut" else content[stop:])
    return content


@st.composite
def mutated_json(draw: st.DrawFn, content: Any) -> str:
    """`content` as JSON after one to three edits: values and keys changed, removed or repeated."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(content))
        if not places:
            return json.dumps(draw(st.sampled_from(_VALUES)))
        parent, key = draw(st.sampled_from(places))
        edit = draw(st.sampled_from(["value", "value", "value", "delete", "rename", "swap"]))
        if edit == "value":
            parent[key] = copy.deepcopy(draw(st.sampled_from(_VALUES)))
        elif edit == "swap":
            other, place = draw(st.sampled_from(places))
            # One place may contain the other, so copy both before writing.
            mine, its = copy.deepcopy(parent[key]), copy.deepcopy(other[place])
            other[place] = mine
            parent[key] = its
        elif edit == "delete":
            del parent[key]
        elif isinstance(parent, dict):
            parent[draw(st.sampled_from(["", "a", "type", "path", "../x"]))] = parent.pop(key)
        else:
            parent.insert(key, copy.deepcopy(parent[key]))
    return json.dumps(content)


def _places(value: Any) -> Iterator[tuple[dict | list, Any]]:
    """Container and key or index of every value inside `value`."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in entries:
        yield value, key
        yield from _places(child)


@contextmanager
def only_clear_errors(
    named: str | os.PathLike, allowed: tuple[type[Exception], ...] = (DataError, OSError)
) -> Iterator[None]:
    """Check that any error has an allowed type and names the file or folder `named`."""
    try:
        yield
    except Exception as error:
        assert isinstance(error, allowed), f"unexpected {type(error).__name__}: {str(error)[:500]}"
        assert str(Path(named)) in str(error), f"{named} is not named: {type(error).__name__}: {str(error)[:500]}"
        assert len(str(error)) < 20_000, "the message is too long to read"


@contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Raise `MemoryError` if the process takes over `more` bytes in addition to what it has now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def examine(
    check: Callable[[st.DataObject], None], *, examples: int | None = None, seconds: float | None = None
) -> int:
    """
    Run a check on `examples` drawn examples, always the same, or on new ones for `seconds` of CPU time.

    A failure prints the seed that reproduces it.

    Returns:
        `int`: number of examples.
    """
    count = 0

    def counted(data: st.DataObject) -> None:
        nonlocal count
        count += 1
        check(data)

    def run(seed: int | None, **more: Any) -> None:
        settings = hypothesis.settings(
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(hypothesis.HealthCheck),
            # Explaining a failure takes longer than finding it.
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
            **more,
        )
        test = settings(hypothesis.given(st.data())(counted))
        (test if seed is None else hypothesis.seed(seed)(test))()

    if seconds is None:
        run(None, max_examples=examples, derandomize=True)
        return count
    seed, end = time.time_ns(), time.process_time() + seconds
    while time.process_time() < end:
        seed += 1
        run(seed, max_examples=100, print_blob=True)
    return count
