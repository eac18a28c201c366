from __future__ import annotations

import io

import pytest

from hf_optical.plots import plot_training


ONE = [
    {"step": 20, "epoch": 0.5, "loss": 0.4, "loss_transport": 0.4, "grad_norm": 0.1, "learning_rate": 1e-3},
    {"step": 30, "eval_loss": 0.45, "eval_map": 0.6, "eval_recall@100": 1.0, "eval_plan_entropy": 3.4},
    {"step": 40, "epoch": 1.0, "loss": 0.3},
    {"step": 60, "eval_loss": 0.43, "eval_map": 0.7, "eval_recall@100": None, "eval_runtime": 1.0},
    {"step": 60, "train_loss": 0.35, "train_runtime": 90.0},
]
SEVERAL = [{"step": 10, "loss": 0.5}] + [
    {"step": step, "eval_map": 0.5, "eval_mrr@10": 0.6, "eval_ha_map": 0.4, "eval_ig_map": 0.6, "eval_ig_mrr@10": 0.7}
    for step in (10, 20)
]


def curves(axis):
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in axis.get_lines()}


def test_curves_show_logged_losses_and_measures():
    figure = plot_training(ONE)

    loss, retrieval = figure.axes
    assert [axis.get_title("left") for axis in figure.axes] == ["Loss", "Retrieval"]
    assert curves(loss) == {"training": [(20, 0.4), (40, 0.3)], "validation": [(30, 0.45), (60, 0.43)]}
    assert curves(retrieval) == {"MAP": [(30, 0.6), (60, 0.7)], "Recall@100": [(30, 1.0)]}
    assert retrieval.get_ylim()[1] == 1.0
    figure.savefig(io.BytesIO())
    (axis,) = plot_training(ONE[:1]).axes
    assert curves(axis) == {"training": [(20, 0.4)]}


def test_several_languages_get_their_own_panel():
    _, mean, languages = plot_training(SEVERAL).axes

    assert list(curves(mean)) == ["MAP", "MRR@10"]
    assert languages.get_title("left") == "MAP by language"
    assert curves(languages) == {"ha": [(10, 0.4), (20, 0.4)], "ig": [(10, 0.6), (20, 0.6)]}


def test_log_without_losses_or_measures_is_refused():
    logs = [{"step": 3, "train_runtime": 4.0}]
    with pytest.raises(ValueError, match="log_history"):
        plot_training(logs)
