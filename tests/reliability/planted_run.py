"""
Training, publishing and failing with a token, at the most verbose log level.

Run by `test_planted_token.py` in a separate process. The arguments are a folder, a valid token and an invalid one.
"""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import yaml
from huggingface_hub import file_download
from huggingface_hub.utils import _http


logging.basicConfig(level=logging.DEBUG)

import datasets  # noqa: E402
import huggingface_hub  # noqa: E402
import transformers  # noqa: E402
from study_records import record, references  # noqa: E402
from tiny import DEMO, tiny_checkpoint  # noqa: E402

from hf_optical import (  # noqa: E402
    OpticalModel,
    OpticalProcessor,
    OpticalRetriever,
    OTDistillationConfig,
    OTDistillationTrainer,
    load_bitext,
)
from hf_optical.hub import upload_folder  # noqa: E402
from hf_optical.studies import load_study  # noqa: E402


# How huggingface_hub 2.4 hands large files to its HTTP library.
warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
for library in (datasets, huggingface_hub, transformers):
    library.utils.logging.set_verbosity_debug()


def print_failure(function: Callable, *args, **kwargs) -> None:
    """Call a function that must fail, and print the traceback."""
    try:
        function(*args, **kwargs)
    except (OSError, ValueError, TypeError):
        traceback.print_exc()
    else:
        raise AssertionError(f"{function} did not fail")


def study(folder: Path, token: str) -> None:
    from hf_optical.studies.hub_dataset import publish_study
    from hf_optical.studies.report import write_report

    content = {
        **{"name": "small", "data_dir": str(DEMO), "teacher": str(folder / "base"), "measures": ["AP"]},
        "corpora": {"sentences": {"sw": "train.jsonl"}},
        "tests": {"questions": {"sw": {"folder": "retrieval"}}},
        "methods": {"before": {"kind": "zero_shot"}, "OT": {"kind": "trained"}, "ceiling": {"kind": "ceiling"}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content))
    config = load_study(folder / "study.yaml")
    records = [*references(["sw"]), record("OT", 0.5, "sw", kind="ot", size=30, seed=1)]
    report = write_report(folder / "report", config, records).parent
    publish_study(report, "org/study", config, records, token=token)


def main(folder: Path, token: str, useless: str) -> None:
    base = tiny_checkpoint(folder / "base")
    for part in (OpticalModel, OpticalProcessor):
        part.from_pretrained(base).push_to_hub("org/base", token=token)
    settings = {
        **{"output_dir": str(folder / "run"), "language": "sw", "max_steps": 2, "save_steps": 1, "use_cpu": True},
        **{"eval_strategy": "steps", "eval_steps": 1, "logging_steps": 1, "log_level": "debug", "hub_token": token},
        **{"push_to_hub": True, "hub_model_id": "org/student"},
    }
    pairs = load_bitext(DEMO / "train.jsonl", "sw").select(range(20))
    args = OTDistillationConfig(**settings)
    print(args, repr(args), args.to_json_string(), args.to_dict())
    trainer = OTDistillationTrainer("org/base", str(base), args, pairs, pairs)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    trainer.push_to_hub()
    print(OpticalRetriever.from_pretrained("org/student", device="cpu"))
    study(folder, token)

    print_failure(load_study, planted_study(folder, token))
    print_failure(OTDistillationConfig, **{**settings, "hub_strategy": "checkpoint"})
    for other in (useless, f"{token}\n", f"{token} é", f"{token}\r\nX: y"):
        print_failure(upload_folder, folder / "base", "org/base", token=other)
        args = OTDistillationConfig(**{**settings, "hub_token": other, "hub_model_id": "org/new"})
        print_failure(OTDistillationTrainer, "org/base", str(base), args, pairs, pairs)
    print_failure(upload_folder, folder / "base", "others/base", token=token)
    print_failure(OpticalRetriever.from_pretrained, "others/private")
    print("all done")


def planted_study(folder: Path, token: str) -> Path:
    """A study that contains the token and would be published with it."""
    content = yaml.safe_load((folder / "study.yaml").read_text())
    # Outside the folders that are searched for the token afterwards.
    path = folder.parent.parent / "planted.yaml"
    path.write_text(yaml.safe_dump({**content, "training": {"hub_token": token}}))
    return path


if __name__ == "__main__":
    for module in (_http, file_download):
        module.time = type("Time", (), {"sleep": staticmethod(lambda seconds: None)})
    main(Path(sys.argv[1]), *sys.argv[2:])
