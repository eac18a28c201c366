"""Training curves: losses and retrieval measures over steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..hub.results import PRINTED, measure_label
from .style import COLOURS, MARKERS, styled


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Curves = dict[str, list[tuple[float, float]]]


@styled
def plot_training(log_history: Iterable[Mapping[str, Any]]) -> Figure:
    """
    Plot the losses of a run and its retrieval measures, if there are any.

    With several languages, another panel shows the first measure of each language.

    Args:
        log_history (iterable of `dict`):
            `trainer.state.log_history`, or the entry of that name in a `trainer_state.json`.

    Returns:
        `matplotlib.figure.Figure`: 3 inches high and 4 inches wide per panel.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the log holds neither losses nor measures.

    Example:

    ```python
    import json
    from hf_optical.plots import plot_training

    with open("outputs/sw/trainer_state.json") as file:
        plot_training(json.load(file)["log_history"]).savefig("training.png")
    ```
    """
    from matplotlib.figure import Figure

    panels = {title: curves for title, curves in _panels(list(log_history)).items() if curves}
    if not panels:
        raise ValueError("log_history must hold losses or retrieval measures; pass trainer.state.log_history")
    figure = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    for axis, (title, curves) in zip(figure.subplots(1, len(panels), squeeze=False).flat, panels.items(), strict=True):
        axis.set_title(title)
        _draw(axis, curves)
    figure.supxlabel("steps", fontsize=9)
    return figure


def _panels(logs: list[Mapping[str, Any]]) -> dict[str, _Curves]:
    """Points `(step, value)` of each curve of each panel, by title."""
    points: _Curves = {}
    for entry in logs:
        for name, value in entry.items():
            if isinstance(value, (int, float)) and "step" in entry:
                points.setdefault(name, []).append((entry["step"], value))
    losses = {"loss": "training", "eval_loss": "validation"}
    # Such as `eval_map`, the mean over languages, and `eval_ha_map`.
    measures = [name for name in points if name.startswith("eval_") and _measure(name).partition("@")[0] in PRINTED]
    means = {name: measure_label(_measure(name)) for name in measures if name == f"eval_{_measure(name)}"}
    first = next(map(_measure, measures), "")
    languages = {
        name: name.removeprefix("eval_").removesuffix(f"_{first}")
        for name in measures
        if name.endswith(f"_{first}") and name not in means
    }
    chosen = {
        "Loss": losses,
        "Retrieval, mean over languages" if languages else "Retrieval": means,
        f"{measure_label(first)} by language": languages,
    }
    return {
        title: {label: points[name] for name, label in names.items() if name in points}
        for title, names in chosen.items()
    }


def _measure(name: str) -> str:
    return name.rpartition("_")[2]


def _draw(axis: Axes, curves: _Curves) -> None:
    for slot, (label, points) in enumerate(curves.items()):
        steps, values = zip(*points, strict=True)
        # A curve with many points needs no markers. A single point is visible only by its marker.
        marker = MARKERS[slot % len(MARKERS)] if len(points) <= 30 else "none"
        axis.plot(steps, values, label=label, color=COLOURS[slot % len(COLOURS)], marker=marker, clip_on=False)
    axis.set_xlim(left=0)
    axis.margins(y=0.08)
    if max(value for points in curves.values() for _, value in points) <= 1 and "Loss" not in axis.get_title("left"):
        axis.set_ylim(top=1)
    axis.locator_params("x", integer=True)
    axis.legend(loc="best")
