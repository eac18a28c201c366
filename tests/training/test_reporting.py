"""The clients that `report_to` names, offline and for real: what a run logs arrives there."""

from __future__ import annotations

import sqlite3

import pytest


# Their own libraries warn.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def trained(make_trainer, tmp_path, monkeypatch):
    def train(client: str):
        # Trackio reads its folder when it is imported.
        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setenv("WANDB_DIR", str(tmp_path))
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tensorboard"))
        monkeypatch.chdir(tmp_path)
        pytest.importorskip(client)
        trainer = make_trainer(
            report_to=client,
            run_name="run",
            project="hf_optical",
            evaluate_on_pairs=True,
            max_steps=2,
            eval_strategy="steps",
            eval_steps=1,
        )
        trainer.train()
        trainer.accelerator.end_training()
        return trainer

    return train


def test_tensorboard_gets_losses_and_measures(trained, tmp_path):
    trained("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (tmp_path / "tensorboard").rglob("events.out.tfevents.*")
    found = EventAccumulator(str(events)).Reload()
    assert {"train/loss_alignment", "train/plan_entropy", "eval/map", "eval/loss"} <= set(found.Tags()["scalars"])
    assert [event.step for event in found.Scalars("eval/map")] == [1, 2]


def test_wandb_gets_losses_and_measures(trained, tmp_path):
    trained("wandb")
    import wandb

    wandb.finish()
    (log,) = tmp_path.rglob("offline-run-*/*.wandb")
    content = log.read_bytes()
    assert all(name in content for name in (b"train/loss_alignment", b"train/plan_entropy", b"eval/map"))


def test_trackio_gets_losses_and_measures(trained, tmp_path):
    trained("trackio")
    (database,) = (tmp_path / "trackio").rglob("*.db")
    with sqlite3.connect(database) as connection:
        text = str(connection.execute("SELECT metrics FROM metrics").fetchall())
    assert all(name in text for name in ("train/loss_alignment", "train/plan_entropy", "eval/map"))
