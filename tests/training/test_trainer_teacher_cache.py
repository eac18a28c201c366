"""Training with teacher vectors from the cache instead of the teacher."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
import torch
from tiny import DEMO, weights
from transformers import TrainerCallback, TrainingArguments

from hf_optical import OTDistillationConfig, load_bitext


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder of `datasets`."""
    folder = tmp_path / "datasets"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


def count_rows(trainer) -> list[int]:
    """Record the number of texts of each call of the teacher."""
    rows: list[int] = []
    trainer.teacher.register_forward_pre_hook(
        lambda _, args, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True
    )
    return rows


def english(*pairs) -> set[str]:
    return {text["en"] for own in pairs for text in own["translation"]}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.arrow"))


def losses(trainer, name: str = "loss") -> list[float]:
    return [log[name] for log in trainer.state.log_history if name in log]


# A few steps, with the vectors of all sentences.
CACHED = {"cache_teacher": True, "max_steps": 3}


class StopAfter(TrainerCallback):
    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


@pytest.mark.promise(
    "Several processes",
    "The teacher encodes a sentence once for all epochs, languages and runs; teachers never share vectors.",
)
@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"side": "both"}, marks=pytest.mark.slow),
        {"anchor_weight": 0.5, "side": "document"},
    ],
)
def test_every_sentence_is_encoded_once_and_the_losses_are_the_same(make_trainer, pairs, held_out, cache, settings):
    """Whatever the marginals, special tokens and roles."""
    settings = {"num_train_epochs": 2, "eval_strategy": "epoch", "per_device_train_batch_size": 10, **settings}
    online, cached = make_trainer(cache_teacher=False, **settings), make_trainer(**settings)
    assert cached.args.cache_teacher is True
    rows, read = count_rows(online), count_rows(cached)
    online.train()
    assert shards(cache) == [] and online.data_collator.teacher_vectors is None
    roles = len(online.args.roles)
    assert sum(rows) == 2 * roles * (len(pairs) + len(held_out))
    cached.train()
    # Without markers, a query and a document have the same tokens.
    assert sum(read) == len(english(pairs, held_out)) < 2 * len(pairs)
    assert len(losses(cached)) == 6 and len(losses(cached, "eval_loss")) == 2
    for name in ("loss", "eval_loss", "loss_alignment"):
        assert losses(cached, name) == pytest.approx(losses(online, name), abs=1e-3), name
    read.clear()
    assert cached.evaluate()["eval_loss"] == pytest.approx(online.evaluate()["eval_loss"], abs=1e-3)
    assert read == []


def test_run_for_another_language_reuses_the_same_english(make_trainer, two, two_held_out, cache):
    """And a later run for the same language, with another seed."""
    make_trainer(**CACHED).train()
    written = [path.stat().st_mtime_ns for path in shards(cache)]
    other = {"language": "lo", "train_dataset": two["lo"], "eval_dataset": two_held_out["lo"], **CACHED}
    online, cached = make_trainer(**other | {"cache_teacher": False}), make_trainer(**other)
    again = make_trainer(**CACHED, seed=7, lora_rank=4)
    rows = count_rows(cached), count_rows(again)
    for trainer in (online, cached, again):
        trainer.train()
    assert rows == ([], []) and written == [path.stat().st_mtime_ns for path in shards(cache)] != []
    assert losses(cached) == pytest.approx(losses(online), abs=1e-3)


def test_another_teacher_shares_the_folder_but_no_vectors(make_trainer, tiny, pairs, held_out, cache):
    first = make_trainer(**CACHED)
    first.train()
    settings = {"teacher": tiny, **CACHED}
    online, cached = make_trainer(**settings | {"cache_teacher": False}), make_trainer(**settings)
    rows = count_rows(cached)
    for trainer in (online, cached):
        trainer.train()
    assert sum(rows) == len(english(pairs, held_out))
    assert losses(cached) == pytest.approx(losses(online), abs=1e-3)
    assert losses(cached) != pytest.approx(losses(first), abs=1e-2)
    assert len({shard.parent.parent for shard in shards(cache)}) == 2


def test_many_pairs_are_read_less_often():
    for pairs, epochs in ((30, 3), (801, 2), (1334, 1), (70_000, 1)):
        args, own = (OTDistillationConfig(language="sw", use_cpu=True, **own) for own in ({}, {"num_train_epochs": 2}))
        for each in (args, own):
            each.settle_length({"sw": range(pairs)})
        assert (args.num_train_epochs, args.cache_teacher, own.num_train_epochs) == (epochs, epochs > 1, 2)


def test_cache_is_on_by_default_for_several_epochs():
    for settings, expected in (
        ({"num_train_epochs": 1}, False),
        ({"num_train_epochs": 1.5}, True),
        ({"num_train_epochs": 3, "max_steps": 10}, False),
        ({"num_train_epochs": 1, "cache_teacher": True}, True),
        ({"num_train_epochs": 3, "cache_teacher": False}, False),
    ):
        assert OTDistillationConfig(language="sw", use_cpu=True, **settings).cache_teacher is expected, settings


def test_cache_is_off_by_default_on_several_machines(monkeypatch):
    """Their disks may not be shared."""
    monkeypatch.setenv("WORLD_SIZE", "4")
    for local, expected in (("4", True), ("2", False)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
        # In such an environment, TrainingArguments would wait for the other processes.
        monkeypatch.setattr(TrainingArguments, "__post_init__", lambda self: None)
        assert OTDistillationConfig(language="sw", num_train_epochs=2).cache_teacher is expected


def test_nothing_is_written_without_the_cache(make_trainer, held_out, cache):
    trainer = make_trainer(max_steps=1)
    assert trainer.args.cache_teacher is False
    trainer.train()
    trainer.evaluate(held_out.select(range(3)))
    assert not cache.exists() or shards(cache) == []


def test_teacher_cache_dir_sets_the_folder(make_trainer, cache, tmp_path):
    make_trainer(**CACHED, teacher_cache_dir=str(tmp_path / "mine")).train()
    assert shards(tmp_path / "mine") and not shards(cache)


def test_evaluation_before_training_and_on_other_pairs(make_trainer, held_out, pairs, cache):
    other = load_bitext(DEMO / "validation.jsonl", "sw").select(range(20, 27))
    online, cached = make_trainer(**CACHED | {"cache_teacher": False}), make_trainer(**CACHED)
    rows = count_rows(cached)
    assert cached.evaluate()["eval_loss"] == online.evaluate()["eval_loss"]
    assert cached.evaluate(other)["eval_loss"] == online.evaluate(other)["eval_loss"]
    assert sum(rows) == len(held_out) + len(other) and shards(cache) == []
    for trainer in (online, cached):
        trainer.train()
    assert not english(other) & english(pairs, held_out)
    rows.clear()
    for _ in range(2):
        found, expected = (trainer.evaluate(other)["eval_loss"] for trainer in (cached, online))
        assert found == pytest.approx(expected, abs=1e-3)
        assert sum(rows) == len(english(other))
    # The vectors for training are still in the cache.
    assert cached.evaluate()["eval_loss"] == pytest.approx(online.evaluate()["eval_loss"], abs=1e-3)
    cached.train()
    assert sum(rows) == len(english(other))


def test_english_shared_by_languages_is_encoded_once(make_two, two, two_held_out):
    settings = {"num_train_epochs": 2, "eval_strategy": "epoch", "per_device_train_batch_size": 10}
    online, cached = make_two(cache_teacher=False, **settings), make_two(**settings)
    rows = count_rows(cached)
    for trainer in (online, cached):
        trainer.train()
    everything = [*two.values(), *two_held_out.values()]
    assert sum(rows) == len(english(*everything)) < sum(map(len, everything))
    for name in ("loss", "eval_loss", "eval_sw_loss", "eval_lo_loss"):
        assert losses(cached, name) == pytest.approx(losses(online, name), abs=1e-3), name
    other = {"lo": two["lo"].select(range(4))}
    assert cached.evaluate(other)["eval_loss"] == pytest.approx(online.evaluate(other)["eval_loss"], abs=1e-3)


def test_data_loader_workers_read_the_cache(make_trainer):
    alone, workers = make_trainer(**CACHED), make_trainer(**CACHED, dataloader_num_workers=1)
    for trainer in (alone, workers):
        trainer.train()
    assert losses(workers) == losses(alone)


@pytest.mark.parametrize("emptied", [pytest.param(False, marks=pytest.mark.slow), True])
def test_resumed_run_gives_the_same_weights_bit_for_bit(make_trainer, tmp_path, emptied):
    """With the cache, or after it was deleted."""
    settings = {"num_train_epochs": 2, "disable_dropout": False, "save_strategy": "steps", "save_steps": 4}
    settings |= {
        "per_device_train_batch_size": 10,
        "save_total_limit": None,
        "teacher_cache_dir": str(tmp_path / "cache"),
    }
    straight = make_trainer(output_dir=str(tmp_path / "straight"), **settings)
    straight.train()
    first = make_trainer(output_dir=str(tmp_path / "first"), callbacks=[StopAfter(4)], **settings)
    first.train()
    if emptied:
        for shard in shards(tmp_path / "cache"):
            shard.unlink()
    second = make_trainer(**settings)
    rows = count_rows(second)
    second.train(resume_from_checkpoint=str(tmp_path / "first" / "checkpoint-4"))
    assert bool(rows) == emptied and straight.state.global_step == second.state.global_step == 6
    for name, weight in weights(straight.model).items():
        assert torch.equal(weights(second.model)[name], weight), name


def test_pairs_for_predict_are_added_to_the_cache(make_trainer, held_out, pairs):
    other = load_bitext(DEMO / "validation.jsonl", "sw").select(range(20, 27))
    online, cached = make_trainer(**CACHED | {"cache_teacher": False}), make_trainer(**CACHED)
    for trainer in (online, cached):
        trainer.train()
    found, expected = (trainer.predict(other).predictions for trainer in (cached, online))
    assert found == pytest.approx(expected, abs=1e-3)
    # Predictions do not change the means of the next evaluation.
    metrics = online.evaluate()
    assert metrics["eval_loss_alignment"] == pytest.approx(metrics["eval_loss"], abs=1e-6)
