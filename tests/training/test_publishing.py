"""Results and cards of a run."""

from __future__ import annotations

import json

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.utils import filter_repo_objects
from peft import LoraConfig
from tiny import tiny_checkpoint

from hf_optical import LanguagePack
from hf_optical.evaluation import bootstrap_interval, gap_closed
from hf_optical.storage.fetching import _PATTERNS
from hf_optical.training.publishing import _MODEL_FILES


def test_results_are_those_of_the_current_student(make_trainer, evaluator, tmp_path):
    trainer = make_trainer(max_steps=2, retrieval_evaluator=evaluator)
    trainer.references = {"zero_shot": {"sw": {"map": 0.01}}, "ceiling": {"sw": {"map": 0.9}}}
    found = trainer.evaluate()
    assert trainer.results["sw"]["measures"]["map"]["trained"] == found["eval_map"]
    trainer.train()
    assert trainer.results == {} == trainer.language_pack().details["results"], (
        "the student has changed since the evaluation"
    )

    found = trainer.evaluate()
    trainer.set_language("sw")
    values = evaluator.measure_each(evaluator.search(trainer.model, trainer.processors["sw"]))
    results = trainer.results["sw"]
    assert (results["dataset"], results["queries"]) == (evaluator.dataset.name, len(evaluator.dataset.qrels))
    for measure, own in results["measures"].items():
        assert (
            own["trained"]
            == found[f"eval_{measure}"]
            == pytest.approx(sum(values[measure].values()) / len(values[measure]))
        )
        assert tuple(own["interval"]) == bootstrap_interval(values[measure], results["level"])
    own = results["measures"]["map"]
    assert (own["zero_shot"], own["ceiling"]) == (0.01, 0.9) and "zero_shot" not in results["measures"]["recall@100"]
    assert results["gap_closed"] == gap_closed(0.01, own["trained"], 0.9)

    trainer.save_model()
    trainer.create_model_card()
    pack = LanguagePack.from_pretrained(tmp_path / "run")
    assert pack.details["results"] == {"sw": results}
    assert pack.details["seconds"] > 0 and "thread" in pack.details["hardware"]
    card = ModelCard.load(tmp_path / "run" / "README.md", ignore_metadata_errors=False)
    assert card.data.eval_results[0].metric_args["interval"] == [round(end, 4) for end in own["interval"]]
    assert "training.png" in card.text and (tmp_path / "run" / "training.png").read_bytes().startswith(b"\x89PNG")
    json.dumps(pack.details)


def test_given_loss_and_adapter_replace_the_settings_on_the_card(make_trainer, tmp_path):
    class MeanDistance(torch.nn.Module):
        pass

    adapter = LoraConfig(r=3, target_modules=["query"])
    trainer = make_trainer(peft_config=adapter, loss=MeanDistance(), lora_rank=32, new_words=0)
    settings = trainer.language_pack().details["settings"]
    assert (settings["lora_rank"], settings["loss"]) == (3, "MeanDistance") and "epsilon" not in settings
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "the loss is `MeanDistance`, which the trainer was given." in card
    assert not [word for word in ("optimal", "OPTICAL", "Citation") if word in card]


def test_card_without_logs_has_no_figure(make_trainer, tmp_path):
    trainer = make_trainer(max_steps=1)
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "training.png").write_bytes(b"of another run")
    trainer.create_model_card()
    assert not (tmp_path / "run" / "training.png").exists()
    assert "training.png" not in (tmp_path / "run" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_every_file_of_a_model_is_published_and_fetched(architecture, tmp_path):
    folder = tiny_checkpoint(tmp_path, architecture, projection_dim=8, nearest_words=["maji"])
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert len(files) >= 9
    assert sorted(filter_repo_objects(files, allow_patterns=_MODEL_FILES)) == files
    assert sorted(filter_repo_objects(files, allow_patterns=_PATTERNS)) == files
