from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import MINILM, demo_pairs

from hf_optical import OTDistillationConfig, OTDistillationTrainer
from hf_optical.bitext.misaligned import PairCosts
from hf_optical.methods import make_methods
from hf_optical.training import misaligned


@pytest.mark.slow
def test_shuffled_pairs_are_left_out_of_training(tmp_path, caplog):
    """The new language is English without some words, which the base can read; a fifth of the pairs is shuffled."""
    english = [pair["en"] for pair in demo_pairs()][:510]
    copies = [" ".join(word for i, word in enumerate(text.split()) if i % 4 != 1) for text in english]
    shuffled = list(range(0, 510, 5))
    others = dict(zip(shuffled, shuffled[1:] + shuffled[:1], strict=True))
    pairs = Dataset.from_list(
        [{"translation": {"en": english[others.get(i, i)], "xx": copies[i]}, "index": i} for i in range(510)]
    )

    def trained_on(**settings):
        args = OTDistillationConfig(language="xx", output_dir=str(tmp_path), use_cpu=True, report_to=[], **settings)
        args.eval_strategy = "no"
        trainer = OTDistillationTrainer(MINILM, MINILM, args, train_dataset=pairs)
        return set(trainer.train_dataset["index"])

    kept = trained_on()
    assert len(kept & set(shuffled)) < 0.1 * len(shuffled) and len(kept - set(shuffled)) > 0.95 * 408
    assert "sentence pairs for xx are left out" in caplog.text and "--keep_misaligned" in caplog.text
    assert len(trained_on(keep_misaligned=True)) == 510


def test_all_are_kept_if_most_would_be_left_out(tmp_path, caplog, monkeypatch):
    """The costs are given, since no real ones come this far: half of 500 pairs, or two thirds."""
    args = OTDistillationConfig(language="xx", output_dir=str(tmp_path), use_cpu=True, report_to=[])
    pairs = {"xx": Dataset.from_list([{"translation": {"en": "a", "xx": "b"}}] * 500)}
    monkeypatch.setattr(misaligned, "activate", lambda *_: None)
    for wrong, mostly, left in ((250, False, 250), (333, False, None), (0, True, None)):
        found = PairCosts(np.linspace(0, 1, 500), np.repeat([0.0, 1.0], [500 - wrong, wrong]), mostly)
        monkeypatch.setattr(misaligned, "pair_costs", lambda *_, found=found, **__: found)
        model = torch.nn.Identity()
        caplog.clear()
        kept = misaligned.aligned_pairs(args, make_methods(args), pairs, model, {"xx": None}, model, None)
        assert {code: len(own) for code, own in kept.items()} == ({"xx": left} if left else {})
        assert ("Most of the 500 sentence pairs for xx" in caplog.text) == (left is None)
