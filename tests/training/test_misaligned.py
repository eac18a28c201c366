from __future__ import annotations

import pytest
from datasets import Dataset
from tiny import MINILM, demo_pairs

from hf_optical import OTDistillationConfig, OTDistillationTrainer


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
