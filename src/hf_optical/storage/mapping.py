"""Files that are mapped into memory without being kept open."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def map_file(path: Path) -> Any:
    """
    Map a file for reading, as a `pyarrow.Buffer`.

    Python keeps a mapped file open, and an index of hundreds of parts would reach the limit of open files.
    """
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        # Arrow has the system read ahead what it gives out, so take one byte, and the others from its address.
        first = file.read_buffer(1)
        return pa.foreign_buffer(first.address, file.size(), base=first)
