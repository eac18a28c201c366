"""
Compare speed and peak memory of training with the trainer of sentence-transformers.

    python benchmarks/training.py

Both trainers train all-MiniLM-L6-v2 on the same sentence pairs in the same batches of 32, in float32, with a frozen
all-MiniLM-L6-v2 as teacher. sentence-transformers has no loss for aligned tokens, so it gets the simplest one: one
minus the largest cosine of each token, which costs less than any transport. Every run is a separate process, and the
contestants take turns.

    python benchmarks/training.py --pairs 700 20000 80000

measures the cost of more sentence pairs instead, which are joined from the embedded ones.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from harness import Measured, arguments, ratios, table, write
from torch import Tensor, nn
from transformers import TrainerCallback

from hf_optical import OTDistillationConfig, OTDistillationTrainer, load_bitext


MINILM = "sentence-transformers/all-MiniLM-L6-v2"
DATA = Path(__file__).parent.parent / "examples" / "data" / "train.jsonl"
BATCH = 32
# The first steps are slower: memory is allocated and caches are cold.
WARM_UP = 4

_ALL = {"train_all_weights": True}
_LORA = {"new_words": 0, "lora_embeddings": False}
# Contestant -> what it trains, and the settings of our trainer (none for sentence-transformers).
OURS: dict[str, dict[str, Any]] = {
    "all weights": _ALL,
    "all weights, grouped by length": {**_ALL, "train_sampling_strategy": "group_by_length"},
    "all weights, grouped, cached teacher": {
        **_ALL,
        "train_sampling_strategy": "group_by_length",
        "cache_teacher": True,
    },
    "LoRA": _LORA,
    "LoRA, grouped, cached teacher": {
        **_LORA,
        "train_sampling_strategy": "group_by_length",
        "cache_teacher": True,
    },
    "default (LoRA, new words)": {},
}
PEERS = {"sentence-transformers, all weights": False, "sentence-transformers, LoRA": True}


class PlainTokenLoss(nn.Module):
    """One minus the largest cosine of each student token, as a loss of sentence-transformers."""

    def __init__(self, model: nn.Module, teacher: nn.Module):
        super().__init__()
        self.model = model
        self._teacher = [teacher]  # a list keeps it out of the trained parameters

    def forward(self, sentence_features: list[dict[str, Tensor]], labels: Tensor | None = None) -> Tensor:
        english, translation = map(dict, sentence_features)
        with torch.no_grad():
            teacher = self._teacher[0](english, task="query")
        student = self.model(translation, task="query")
        cosines = student["token_embeddings"] @ teacher["token_embeddings"].transpose(1, 2)
        cosines = cosines.masked_fill(~teacher["attention_mask"].bool().unsqueeze(1), -torch.inf)
        mask = student["attention_mask"].bool()
        return (1 - cosines.amax(2))[mask].mean()


class Clock(TrainerCallback):
    """Times of the start, and of the end of each step."""

    def __init__(self) -> None:
        self.begin, self.ready, self.ends = time.perf_counter(), 0.0, []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.ready = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        """Mean seconds per step, without the warm-up."""
        return (self.ends[-1] - self.ends[WARM_UP - 1]) / (len(self.ends) - WARM_UP)


def read_pairs(file: str, folder: str, number: int | None = None) -> Dataset:
    """A number of sentence pairs, each joined from one to four sentences, which gives the lengths of news."""
    pairs = list(load_bitext(file, "sw")["translation"])
    joined, order = Path(folder) / "pairs.jsonl", random.Random(0)
    with joined.open("w", encoding="utf-8") as out:
        row = 0
        for count in itertools.count() if number is None else range(number):
            if row >= len(pairs):
                if number is None:
                    break
                order.shuffle(pairs)
                row = 0
            sentences = pairs[row : row + 1 + count % 4]
            texts = {code: " ".join(pair[code] for pair in sentences) for code in ("sw", "en")}
            out.write(json.dumps({"translation": texts}) + "\n")
            row += len(sentences)
    return load_bitext(joined, "sw")


def run_ours(settings: dict[str, Any], pairs: Dataset, steps: int, folder: str) -> Clock:
    clock = Clock()
    args = OTDistillationConfig(
        language="sw",
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        teacher_cache_dir=folder,
        **{"cache_teacher": False, **settings},
    )
    trainer = OTDistillationTrainer(model=MINILM, teacher=MINILM, args=args, train_dataset=pairs, callbacks=[clock])
    trainer.train()
    return clock


def run_peer(lora: bool, pairs: Dataset, steps: int, folder: str) -> Clock:
    from peft import LoraConfig
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.multi_vector_encoder import (
        MultiVectorEncoderTrainer,
        MultiVectorEncoderTrainingArguments,
    )

    from hf_optical import OpticalRetriever

    clock = Clock()
    OpticalRetriever.from_pretrained(MINILM).save_pretrained(f"{folder}/base")
    student, teacher = (MultiVectorEncoder(f"{folder}/base") for _ in range(2))
    if lora:
        student.add_adapter(LoraConfig(r=32, lora_alpha=32, target_modules=["query", "key", "value", "dense"]))
    args = MultiVectorEncoderTrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=BATCH,
        learning_rate=1e-4,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        router_mapping={"en": "query", "sw": "query"},
    )
    texts = Dataset.from_list(pairs["translation"]).select_columns(["en", "sw"])
    trainer = MultiVectorEncoderTrainer(
        model=student,
        args=args,
        train_dataset=texts,
        loss=PlainTokenLoss(student, teacher.requires_grad_(False).eval()),
        callbacks=[clock],
    )
    trainer.train()
    return clock


def work(name: str, steps: int, file: str, threads: int, number: int | None) -> None:
    """Run one contestant and print its measurements in the last line."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        pairs = read_pairs(file, folder, number)
        run: Callable[..., Clock] = run_peer if name in PEERS else run_ours
        clock = run(PEERS.get(name, OURS.get(name)), pairs, steps, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": clock.seconds, "megabytes": peak, "before": clock.ready - clock.begin}))


def run_apart(args: argparse.Namespace, name: str, steps: int, number: int | None = None) -> dict[str, float]:
    """Run [`work`] in a new process and return its measurements."""
    command = [sys.executable, __file__, "--worker", name, "--steps", str(steps), "--threads", str(args.threads)]
    command += ["--train_file", args.train_file] + ([] if number is None else ["--pairs", str(number)])
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(output.strip().splitlines()[-1])


def grow(args: argparse.Namespace, steps: int) -> None:
    """Print the cost of a run by its number of sentence pairs."""
    measured, rows = [], []
    for name in ("LoRA", "default (LoRA, new words)"):
        for number in args.pairs:
            found = run_apart(args, name, steps, number)
            measured.append(Measured({"pairs": number}, name, [found["seconds"]], found))
            rows.append([name, number, found["before"], found["seconds"], found["megabytes"]])
    header = ["run", "pairs", "seconds before the first step", "seconds a step", "peak memory, MB"]
    print(table(header, rows))
    write(args.output, measured)


def main() -> None:
    parser = arguments(__doc__, "training")
    parser.add_argument("--steps", type=int, default=40, help="Number of updates of a run.")
    parser.add_argument("--train_file", default=str(DATA), help="Sentence pairs, English and Swahili.")
    parser.add_argument("--only", nargs="+", help="Contestants to run; all by default.")
    parser.add_argument("--pairs", type=int, nargs="+", help="Numbers of sentence pairs to measure the cost of.")
    parser.add_argument("--worker", help="Internal: run this contestant.")
    args = parser.parse_args()
    steps, rounds = (WARM_UP + 2, 1) if args.quick else (args.steps, args.rounds)
    if args.worker:
        return work(args.worker, steps, args.train_file, args.threads, *(args.pairs or [None]))
    if args.pairs:
        return grow(args, WARM_UP + 2)

    names = [name for name in (*PEERS, *OURS) if args.only is None or name in args.only]
    seconds, megabytes = defaultdict(list), defaultdict(list)
    for _ in range(rounds):
        for name in names:
            found = run_apart(args, name, steps)
            seconds[name].append(found["seconds"])
            megabytes[name].append(found["megabytes"])
    setting = {"batch": BATCH, "steps": steps}
    measured = [
        Measured(setting, name, seconds[name], {"megabytes": statistics.median(megabytes[name])}) for name in names
    ]
    rows = []
    for entry in measured:
        peer = next((name for name in PEERS if name.split(", ")[1] == entry.name.split(",")[0]), None)
        faster = 1 / ratios(measured, peer)[entry.name] if peer in names and peer != entry.name else ""
        rows.append([entry.name, BATCH / entry.median, faster, entry.notes["megabytes"]])
    print(table(["run", "pairs per second", "speed-up", "peak memory, MB"], rows))
    write(args.output, measured)


if __name__ == "__main__":
    main()
