"""A method that a user adds gets logs, cards, evaluation and caching like those of the library."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard

from hf_optical import LanguagePack, OTDistillationConfig
from hf_optical.methods import CodeSwitch, Method, OptimalTransport, method_names


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(Method, "registered", dict(Method.registered))


@pytest.fixture
def mean_cosine() -> type[Method]:
    class MeanCosine(Method):
        name = "mean_cosine"
        description = "the mean vector of a translation is turned towards that of the {teacher_language} sentence"
        tags = ("mean-cosine",)
        citations = ("@misc{me2026cosine, title={Mean Cosines}}",)
        card_settings = (*Method.card_settings, "power")

        def losses(self, read, run):
            sides = read.student["pairs"], read.teacher("pairs")
            student, teacher = ((side.embeddings * side.mask[..., None]).sum(1) for side in sides)
            cosine = torch.nn.functional.cosine_similarity(student, teacher)
            run.record(mean_cosine=cosine)
            return {"cosine": (1 - cosine) ** getattr(self.settings, "power", 1)}

        def used_settings(self):
            return {"power": 1} if not hasattr(self.settings, "power") else super().used_settings()

    return MeanCosine


def logs(trainer) -> list[dict[str, float]]:
    return [log for log in trainer.state.log_history if "loss" in log]


def test_losses_are_logged_and_fall(make_trainer, mean_cosine):
    trainer = make_trainer(method=mean_cosine, num_train_epochs=2, side="both", cache_teacher=True)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_loss"] < before["eval_loss"]
    assert after["eval_loss_cosine"] == pytest.approx(after["eval_loss"], abs=1e-6)
    assert after["eval_mean_cosine"] == pytest.approx(1 - after["eval_loss"], abs=1e-5)
    for log in logs(trainer):
        assert log["loss_cosine"] == pytest.approx(log["loss"], abs=1e-4) and "mean_cosine" in log


def test_method_is_chosen_by_name_like_those_of_the_library(make_trainer, mean_cosine):
    """A study chooses its methods in the same way."""
    assert "mean_cosine" in method_names()
    trainer = make_trainer(method="mean_cosine", max_steps=1)
    assert [type(method) for method in trainer.methods] == [mean_cosine]
    with pytest.raises(ValueError, match="method must be one of .*'mean_cosine'"):
        make_trainer(method="mean")


def test_card_describes_the_method_and_its_settings(make_trainer, mean_cosine, tmp_path):
    settings = SimpleNamespace(roles=("query",), side="query", align_special_tokens=False, power=2)
    trainer = make_trainer(method=mean_cosine(settings), max_steps=1)
    trainer.train()
    trainer.save_model()
    trainer.create_model_card()
    stored = LanguagePack.from_pretrained(tmp_path / "run").details["settings"]
    assert (stored["method"], stored["power"], stored["side"]) == ("mean_cosine", 2, "query")
    assert not {"solver", "marginals", "epsilon"} & stored.keys()
    card = ModelCard.load(tmp_path / "run" / "README.md", ignore_metadata_errors=False)
    text = " ".join(card.text.split())
    assert "mean vector of a translation is turned towards that of the English sentence." in text
    assert "No relevance labels were used." in text and "me2026cosine" in text and "huang2023optical" not in text
    assert "mean-cosine" in card.data.tags and "optimal-transport" not in card.data.tags
    assert "power" in text


def test_config_may_have_the_settings_of_the_method(mean_cosine):
    @dataclass(repr=False)
    class MeanCosineConfig(OTDistillationConfig):
        power: float = 3.0

    args = MeanCosineConfig(language="sw", method="mean_cosine", use_cpu=True)
    assert mean_cosine(args).used_settings()["power"] == 3.0


def test_methods_are_combined(make_trainer, mean_cosine, tmp_path):
    args = OTDistillationConfig(language="sw", use_cpu=True)
    trainer = make_trainer(
        method=[OptimalTransport(args), mean_cosine, CodeSwitch(args)], anchor_weight=0.5, max_steps=2
    )
    trainer.train()
    parts = ("loss_alignment", "loss_anchor", "loss_cosine", "loss_ranking")
    for log in logs(trainer):
        assert log["loss"] == pytest.approx(sum(log[part] for part in parts), abs=2e-4)
    assert trainer.language_pack().details["settings"]["method"] == "ot, mean_cosine, code_switch"
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "optimal transport" in card and "mean vector of a translation" in card
