"""Saving, resuming and caching with the methods that rank."""

from __future__ import annotations

import pytest
import torch
from tiny import weights

from hf_optical import LanguagePack, OpticalModel
from hf_optical.languages import activate


@pytest.mark.parametrize("settings", [pytest.param({}, marks=pytest.mark.slow), {"alternate": True}])
def test_resumed_hybrid_gives_the_same_weights_bit_for_bit(make_trainer, tmp_path, settings):
    saving = {"method": "hybrid", "save_strategy": "steps", "save_steps": 3, "save_total_limit": None, **settings}
    straight = make_trainer(output_dir=str(tmp_path / "straight"), **saving)
    straight.train()
    resumed = make_trainer(output_dir=str(tmp_path / "resumed"), **saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "straight" / "checkpoint-3"))
    for name, weight in weights(straight.model).items():
        assert torch.equal(weights(resumed.model)[name], weight), name


def test_cached_teacher_vectors_give_the_same_losses(make_trainer, tmp_path, triples):
    settings = {"method": "hybrid", "max_steps": 3, "triples": triples}
    online = make_trainer(cache_teacher=False, **settings)
    cached = make_trainer(cache_teacher=True, teacher_cache_dir=str(tmp_path / "cache"), **settings)
    for trainer in (online, cached):
        trainer.train()
    found = [[log["loss"] for log in trainer.state.log_history if "loss" in log] for trainer in (online, cached)]
    assert found[0] == pytest.approx(found[1], abs=2e-3)


def test_opened_pack_gives_the_trained_vectors(make_trainer, tiny, tmp_path):
    trainer = make_trainer(method="code_switch", max_steps=2)
    trainer.train()
    trainer.save_model()
    model = OpticalModel.from_pretrained(tiny)
    LanguagePack.from_pretrained(tmp_path / "run").attach(model)
    activate(model, "sw")
    batch = trainer.processing_class.queries(["basi lina chelewa"])
    with torch.no_grad():
        assert torch.equal(model.eval()(**batch).embeddings, trainer.model.eval()(**batch).embeddings)
