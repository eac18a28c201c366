"""
Compare `encode_texts` with sentence-transformers and PyLate on the same texts and model.

    python benchmarks/encoding.py [--quick] [--pylate PYTHON]

The model is all-MiniLM-L6-v2 with a projection to 128 dimensions. The texts are cut from the embedded passages: 4 to
220 words (log-normal, median 60), in batches of 32.
"""

from __future__ import annotations

import json
import math
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from harness import apart, arguments, peak_memory, race, ratios, table, write
from pylate_peer import PyLate
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from hf_optical import OpticalModel, OpticalProcessor
from hf_optical.retrieval import TokenVectors, encode_texts


MODEL = "sentence-transformers/all-MiniLM-L6-v2"
NAMES = ("encode_texts", "sentence-transformers")
PASSAGES = Path(__file__).parents[1] / "examples" / "data" / "retrieval" / "corpus.jsonl"


def passages(count: int) -> list[str]:
    """Texts with the varied lengths of passages."""
    generator = random.Random(0)
    words = [
        word for line in PASSAGES.read_text(encoding="utf-8").splitlines() for word in json.loads(line)["text"].split()
    ]
    texts = []
    for _ in range(count):
        length = min(220, max(4, round(math.exp(generator.gauss(math.log(60), 0.6)))))
        start = generator.randrange(len(words) - length)
        texts.append(" ".join(words[start : start + length]))
    return texts


def save(folder: Path) -> None:
    """Save the model with a random projection."""
    torch.manual_seed(0)
    OpticalModel.from_pretrained(MODEL, projection_dim=128).save_pretrained(folder / "model")
    OpticalProcessor.from_pretrained(MODEL).save_pretrained(folder / "model")


def contestant(name: str, folder: Path, batch_size: int = 32) -> Callable[[list[str]], object]:
    """The function of a contestant that encodes texts."""
    if name == "sentence-transformers":
        from sentence_transformers import MultiVectorEncoder

        model = MultiVectorEncoder(str(folder / "model"), device="cpu")
        return lambda texts: model.encode_document(texts, batch_size=batch_size)
    model = OpticalModel.from_pretrained(folder / "model")
    processor = OpticalProcessor.from_pretrained(folder / "model")
    return lambda texts: encode_texts(model, processor, texts, "document", batch_size=batch_size)


def memory(name: str, folder: Path, threads: int) -> float:
    """Peak memory of a contestant in MB, including the vectors but not its model."""
    torch.set_num_threads(threads)
    encode = contestant(name, folder)
    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    encode(texts[:2])
    return peak_memory(lambda: encode(texts))


def floor(folder: Path, texts: list[str]) -> float:
    """
    Lower bound on the seconds of the model's linear maps.

    Their operations without padding, divided by the speed of a matrix product of the most common shape.
    """
    with FlopCounterMode(display=False) as counter:
        contestant("encode_texts", folder, batch_size=1)(texts)
    rows, outer, inner = torch.rand(2048, 384), torch.rand(384, 1536), torch.rand(1536, 384)
    measured = race({}, {"product": lambda: rows @ outer @ inner})
    return counter.get_total_flops() / (2 * 2 * 2048 * 384 * 1536) * min(measured[0].seconds)


def main() -> None:
    parser = arguments(__doc__, "encoding")
    parser.add_argument("--pylate", metavar="PYTHON", help="Interpreter of an environment that has PyLate.")
    parser.add_argument("--texts", type=int, default=512)
    options = parser.parse_args()
    if options.quick:
        options.texts, options.rounds = 64, 2
    torch.set_num_threads(options.threads)
    texts = passages(options.texts)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        save(folder)
        runs = {name: partial(contestant(name, folder), texts) for name in NAMES}
        vectors: TokenVectors = runs["encode_texts"]()
        theirs = TokenVectors.from_list(list(runs["sentence-transformers"]()))
        differences = {"sentence-transformers": (theirs.values - vectors.values).abs().max().item()}
        if options.pylate:
            runs["PyLate"] = peer = PyLate(options.pylate, "encode", folder, options.threads)
            peer()
            first = load_file(folder / "pylate.safetensors")["first"]
            differences["PyLate"] = (first - vectors[0]).abs().max().item()
        measured = race({"texts": len(texts), "tokens": len(vectors.values)}, runs, options.rounds)
        if options.pylate:
            peer.close()
        seconds = floor(folder, texts)
        for entry in measured:
            entry.notes["texts a second"] = len(texts) / entry.median
            entry.notes["times the floor"] = entry.median / seconds
            entry.notes["difference"] = differences.get(entry.name, 0.0)
            if entry.name in NAMES:
                entry.notes["MB"] = apart(memory, entry.name, folder, options.threads)
    faster = ratios(measured, "encode_texts")
    header = ["", "texts a second", "times the time of encode_texts", "times the floor", "difference", "MB"]
    rows = [
        [
            entry.name,
            entry.notes["texts a second"],
            faster.get(entry.name, 1.0),
            entry.notes["times the floor"],
            entry.notes["difference"],
            entry.notes.get("MB", ""),
        ]
        for entry in measured
    ]
    print(f"{len(texts)} texts, {vectors.values.nbytes / 2**20:.0f} MB of vectors\n\n{table(header, rows)}")
    write(options.output, measured, model=MODEL)


if __name__ == "__main__":
    main()
