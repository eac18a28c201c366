"""What `test_distributed.py` runs in one process and in several: evaluate, train, evaluate; rank by rank a result."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from accelerate import PartialState

from hf_optical import (
    OpticalModel,
    OpticalProcessor,
    OTDistillationConfig,
    OTDistillationTrainer,
    RetrievalEvaluator,
    load_beir,
    load_bitext,
)


def main(student: str, teacher: str, output: str, settings: str) -> None:
    data = Path("examples/data")
    args = OTDistillationConfig(
        output_dir=output,
        language="sw",
        disable_dropout=True,
        optim="sgd",
        learning_rate=0.5,
        logging_steps=1,
        max_steps=4,
        eval_strategy="no",
        save_strategy="steps",
        save_steps=2,
        disable_tqdm=True,
        use_cpu=True,
        **json.loads(settings),
    )
    reader, processor = OpticalModel.from_pretrained(student), OpticalProcessor.from_pretrained(student)
    trainer = OTDistillationTrainer(
        student,
        teacher,
        args,
        load_bitext(data / "train.jsonl", "sw").select(range(45)),
        load_bitext(data / "validation.jsonl", "sw").select(range(13)),
        retrieval_evaluator=RetrievalEvaluator(load_beir(data / "retrieval"), reader, processor),
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    trainer.save_model()
    rank = PartialState().process_index
    result = {
        "losses": [log["loss"] for log in trainer.state.log_history if "loss" in log],
        "before": before,
        "after": after,
        "weights": {
            name: weight.double().sum().item() for name, weight in trainer.model.state_dict().items() if "lora" in name
        },
    }
    Path(f"{output}.{rank}.json").write_text(json.dumps(result))
    trainer.accelerator.wait_for_everyone()
    # Under gloo, workers now and then abort while Python shuts down; what counts is written.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
