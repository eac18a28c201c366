"""
PyLate in a separate environment.

`PYTHON pylate_peer.py JOB FOLDER` runs the job once for every line on its standard input and answers with a line. The
class `PyLate` is the caller's side.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


class PyLate:
    """
    A process that runs a job with PyLate whenever it is called.

    Args:
        python (`str`): interpreter of an environment with PyLate.
        job (`str`): `"score"` or `"encode"`.
        folder (`Path`): folder with the input of the job, to which it writes `pylate.safetensors`.
        threads (`int`): threads of torch.
    """

    def __init__(self, python: str, job: str, folder: Path, threads: int):
        command = [python, __file__, job, str(folder), str(threads)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.version = self._answer()

    def __call__(self) -> Any:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("PyLate stopped; see its output above")
        return json.loads(line)


def scoring(folder: Path):
    """MaxSim of all queries with all documents in batches of two, the fastest of 2, 4, ... 128."""
    import torch
    from pylate.scores import colbert_scores
    from safetensors.torch import load_file, save_file

    queries, documents = (
        list(tensors["values"].split(tensors["lengths"].tolist()))
        for tensors in (load_file(folder / f"{name}.safetensors") for name in ("queries", "documents"))
    )

    def padded(vectors):
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(entry)) for entry in vectors], batch_first=True)
        return torch.nn.utils.rnn.pad_sequence(vectors, batch_first=True), mask

    def run():
        query_vectors, query_mask = padded(queries)
        scores = []
        for start in range(0, len(documents), 2):
            vectors, mask = padded(documents[start : start + 2])
            scores.append(colbert_scores(query_vectors, vectors, query_mask, mask))
        save_file({"scores": torch.cat(scores, 1)}, folder / "pylate.safetensors")

    return run


def encoding(folder: Path):
    """Encode the passages in `texts.json` with the model in `model`."""
    from pylate.models import ColBERT
    from safetensors.torch import save_file

    texts = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
    model = ColBERT(model_name_or_path=str(folder / "model"), device="cpu")

    def run():
        vectors = model.encode(texts, is_query=False, batch_size=32, convert_to_tensor=True, show_progress_bar=False)
        first = {"first": vectors[0].contiguous()}
        save_file(first, folder / "pylate.safetensors")

    return run


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    import pylate
    import torch

    job, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    with torch.inference_mode():
        run = {"score": scoring, "encode": encoding}[job](folder)
        print(json.dumps(pylate.__version__), file=answers, flush=True)
        for _ in sys.stdin:
            print(json.dumps(run()), file=answers, flush=True)


if __name__ == "__main__":
    main()
