"""
Demo page: ask in the new language, read in English, and see which words transport aligns.

    python examples/space/app.py

uses the pack that `python examples/distill.py` saves in outputs/sw. If there is none, it first trains one for about a
minute. With your own packs and passages (or `hf-optical demo`, without a checkout):

    python examples/space/app.py --pack FOLDER_OR_ID --documents corpus.jsonl

On a Space, set the variables PACK and DOCUMENTS instead of the options.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hf_optical.errors import exit_on_error
from hf_optical.space import open_page, train_short_pack


HERE = Path(__file__).parent
# Next to this file on a Space; one folder up in the repository.
DATA = next((folder for folder in (HERE / "data", HERE.parent / "data") if folder.is_dir()), HERE / "data")
TRAINED, SHORTLY_TRAINED = Path("outputs/sw"), Path("outputs/space/sw")


def main() -> None:
    parser = argparse.ArgumentParser(description="A page to ask in the new language and see what transport aligns.")
    packs = os.environ.get("PACK", "").split()
    documents = os.environ.get("DOCUMENTS") or DATA / "retrieval" / "corpus.jsonl"
    parser.add_argument("--pack", nargs="+", default=packs, help="Folders or Hub ids of language packs.")
    parser.add_argument("--documents", default=documents, help="Passages to search: JSON lines, CSV, TSV or Parquet.")
    parser.add_argument("--port", type=int, help="Port to listen on. Default: the first free from 7860.")
    args = parser.parse_args()
    with exit_on_error(OSError, ValueError):
        open_page(args.pack or [default_pack()], args.documents, args.port)


def default_pack() -> Path:
    """An existing pack for the embedded data, or one trained now."""
    for folder in (TRAINED, SHORTLY_TRAINED):
        if (folder / "language_pack.json").is_file():
            return folder
    print(f"No language pack in {TRAINED}; training a short one on the embedded sentence pairs (about a minute)")
    train_short_pack(DATA / "train.jsonl", "sw", SHORTLY_TRAINED)
    return SHORTLY_TRAINED


if __name__ == "__main__":
    main()
