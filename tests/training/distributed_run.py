"""
The script that `test_distributed.py` runs in several processes, and whose scenarios it runs alone.

Each scenario evaluates, trains and evaluates again, and every rank writes its results. The second language of a
scenario is reversed Swahili under the code `lo`. In some scenarios, one rank fails.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import TrainerCallback

from hf_optical import (
    OpticalModel,
    OpticalProcessor,
    OTDistillationConfig,
    OTDistillationTrainer,
    RetrievalEvaluator,
    load_beir,
    load_bitext,
)


WORLD, RANK = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))


class Fault(TrainerCallback):
    """Let one rank fail, and note the time in a file."""

    def __init__(self, kind: str | None, output: str):
        self.kind, self.moment = kind, Path(output) / "moment"

    def note(self) -> None:
        self.moment.parent.mkdir(parents=True, exist_ok=True)
        self.moment.write_text(str(time.time()))

    def kill(self) -> None:
        self.note()
        os.kill(os.getpid(), signal.SIGKILL)

    def fill_disk(self) -> None:
        self.note()
        # The largest size of a file of this process, in bytes.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))

    def on_step_end(self, args, state, control, **_):
        if state.global_step == 2 and self.kind == "killed":
            self.kill()
        elif state.global_step == 2 and self.kind == "killed while it waits":
            threading.Timer(2, self.kill).start()
        elif state.global_step == 2 and self.kind == "disk full at a checkpoint":
            self.fill_disk()


class Trainer(OTDistillationTrainer):
    fault: Fault

    def pair_losses(self, student, teacher):
        losses = super().pair_losses(student, teacher)
        if self.state.global_step == 1 and self.fault.kind == "not finite":
            self.fault.note()
            losses["alignment"][0] = float("nan")
        return losses

    def train(self, *args, **kwargs):
        if self.fault.kind == "disk full at the teacher's vectors":
            self.fault.fill_disk()
        return super().train(*args, **kwargs)


class Evaluator(RetrievalEvaluator):
    fault: Fault
    # Before each search from the first step on.
    seconds = 0.0

    def search(self, *args, **kwargs):
        if self.fault.kind == "disk full at a search":
            self.fault.note()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        time.sleep(self.seconds)
        return super().search(*args, **kwargs)


class SlowSearch(TrainerCallback):
    """Let every search take some seconds once training has begun; the references are measured before."""

    def __init__(self, evaluator: Evaluator, seconds: float):
        self.evaluator, self.seconds = evaluator, seconds

    def on_train_begin(self, args, state, control, **_):
        self.evaluator.seconds = self.seconds


def load(name: str, count: int, languages: list[str]) -> Dataset | dict[str, Dataset]:
    pairs = load_bitext(f"examples/data/{name}.jsonl", "sw").select(range(count))
    if languages == ["sw"]:
        return pairs
    other = [
        {**row, "translation": {"en": row["translation"]["en"], "lo": row["translation"]["sw"][::-1]}}
        for row in pairs.select(range(count // 2))
    ]
    return {"sw": pairs, "lo": Dataset.from_list(other)}


def run(
    student: str,
    teacher: str,
    output: str,
    *,
    batch: int = 6,
    accumulated: int | None = None,
    fault: tuple[str, int] | None = None,
    search_seconds: float = 0.0,
    resume_from_checkpoint: str | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """
    Args:
        batch (`int`): pairs of all processes together; where batches are `accumulated`, pairs of one.
        accumulated (`int`, *optional*): batches of a step, in all processes together.
        fault (*optional*): what goes wrong, and on which rank.
    """
    settings["per_device_train_batch_size"] = batch if accumulated else batch // WORLD
    if accumulated:
        settings["gradient_accumulation_steps"] = accumulated // WORLD
    args = OTDistillationConfig(
        output_dir=output,
        disable_dropout=True,
        optim="sgd",
        learning_rate=0.5,
        logging_steps=1,
        save_strategy="steps",
        disable_tqdm=True,
        use_cpu=True,
        **{"language": ["sw"], "max_steps": 4, "save_steps": 2, "eval_strategy": "no", **settings},
        teacher_cache_dir=f"{output}/teacher",
    )
    fails = Fault(fault[0] if fault and fault[1] == RANK else None, output)
    reader, processor = OpticalModel.from_pretrained(student), OpticalProcessor.from_pretrained(student)
    evaluator = Evaluator(load_beir("examples/data/retrieval"), reader, processor)
    evaluator.fault = fails
    trainer = Trainer(
        student,
        teacher,
        args,
        load("train", 45, args.languages),
        load("validation", 13, args.languages),
        retrieval_evaluator=dict.fromkeys(args.languages, evaluator),
        callbacks=[fails, SlowSearch(evaluator, search_seconds)],
    )
    trainer.fault = fails
    before = trainer.evaluate()
    trainer.train(resume_from_checkpoint=resume_from_checkpoint and f"{output}/../{resume_from_checkpoint}")
    after = trainer.evaluate()
    trainer.save_model()
    return {
        "log": [log for log in trainer.state.log_history if "loss" in log],
        "before": before,
        "after": after,
        "weights": {
            name: weight.double().sum().item()
            for name, weight in trainer.model.state_dict().items()
            if "language_" in name
        },
    }


def main(student: str, teacher: str, output: str, scenarios: str) -> None:
    found = {name: run(student, teacher, f"{output}/{name}", **own) for name, own in json.loads(scenarios).items()}
    Path(output, f"{RANK}.json").write_text(json.dumps(found))
    PartialState().wait_for_everyone()
    # Under gloo, workers now and then abort while Python shuts down; what counts is written.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
