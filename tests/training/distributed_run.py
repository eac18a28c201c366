"""
What `test_distributed.py` runs in one process and in several: evaluate, train, evaluate; rank by rank a result.

Two languages of the settings are Swahili and, under the code `lo`, Swahili spelt backwards.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from accelerate import PartialState
from datasets import Dataset

from hf_optical import (
    OpticalModel,
    OpticalProcessor,
    OTDistillationConfig,
    OTDistillationTrainer,
    RetrievalEvaluator,
    load_beir,
    load_bitext,
)


def load(name: str, count: int, languages: list[str]) -> Dataset | dict[str, Dataset]:
    pairs = load_bitext(f"examples/data/{name}.jsonl", "sw").select(range(count))
    if languages == ["sw"]:
        return pairs
    other = [
        {**row, "translation": {"en": row["translation"]["en"], "lo": row["translation"]["sw"][::-1]}}
        for row in pairs.select(range(count // 2))
    ]
    return {"sw": pairs, "lo": Dataset.from_list(other)}


def main(student: str, teacher: str, output: str, settings: str) -> None:
    settings = {"language": ["sw"], "max_steps": 4, "save_steps": 2, "resume_from_checkpoint": None} | json.loads(
        settings
    )
    args = OTDistillationConfig(
        output_dir=output,
        disable_dropout=True,
        optim="sgd",
        learning_rate=0.5,
        logging_steps=1,
        eval_strategy="no",
        save_strategy="steps",
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    reader, processor = OpticalModel.from_pretrained(student), OpticalProcessor.from_pretrained(student)
    evaluator = RetrievalEvaluator(load_beir("examples/data/retrieval"), reader, processor)
    trainer = OTDistillationTrainer(
        student,
        teacher,
        args,
        load("train", 45, args.languages),
        load("validation", 13, args.languages),
        retrieval_evaluator=dict.fromkeys(args.languages, evaluator),
    )
    before = trainer.evaluate()
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    after = trainer.evaluate()
    trainer.save_model()
    rank = PartialState().process_index
    result = {
        "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
        "before": before,
        "after": after,
        "weights": {
            name: weight.double().sum().item()
            for name, weight in trainer.model.state_dict().items()
            if "language_" in name
        },
    }
    Path(f"{output}.{rank}.json").write_text(json.dumps(result))
    trainer.accelerator.wait_for_everyone()
    # Under gloo, workers now and then abort while Python shuts down; what counts is written.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
