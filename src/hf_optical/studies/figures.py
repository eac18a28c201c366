"""
Figures of a study, for its report and for notebooks.

Each function takes records and returns a `matplotlib.figure.Figure`. A method has the same colour and marker in all
figures of the same records.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..checks import check_choice
from ..evaluation.significance import bootstrap_interval
from ..hub.results import measure_label
from ..plots.style import COLOURS, GREY, MARKERS, styled
from .kinds import FIXED_COLOURS, REFERENCES
from .markdown import number
from .robustness import robustness_curves
from .store import Record
from .tables import (
    MEAN,
    Cell,
    Curves,
    Headline,
    Row,
    data_size_curves,
    domain_matrices,
    first,
    headline,
    language_pair_curves,
    places_of,
    pool_seeds,
    positions,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.0  # inches, about the width of a README

Styles = dict[str, dict[str, Any]]


def method_styles(records: Iterable[Record]) -> Styles:
    """Method -> keyword arguments of `Axes.plot`. References are grey lines without markers."""
    kinds = {record.method: record.kind for record in records}
    rivals = [method for method, kind in kinds.items() if kind not in REFERENCES]
    slots: dict[str, int] = {}
    for slot, kind in enumerate(FIXED_COLOURS):
        slots |= dict.fromkeys([method for method in rivals if kinds[method] == kind][:1], slot)
    fixed, colours = len(FIXED_COLOURS), len(COLOURS)
    free = [slot for slot in [*range(fixed, colours), *range(fixed)] if slot not in slots.values()]
    free += range(colours, colours + len(rivals))
    slots |= zip((method for method in rivals if method not in slots), free, strict=False)
    styles: Styles = {}
    for method, kind in kinds.items():
        if kind in REFERENCES:
            styles[method] = {"color": GREY, "marker": "none", "linestyle": REFERENCES[kind][1]}
            continue
        slot = slots[method]
        colour, marker = COLOURS[slot % colours], MARKERS[slot % len(MARKERS)]
        # Repeated colours have hollow markers.
        filling = colour if slot < colours else "white"
        styles[method] = {"color": colour, "marker": marker, "markerfacecolor": filling, "linestyle": "-"}
    return styles


@styled
def plot_languages(
    records: Iterable[Record], *, test: str | None = None, corpus: str | None = None, measure: str = "AP"
) -> Figure:
    """
    A measure by language and method, with 95 % bootstrap intervals over the queries; one panel per language.

    Methods are sorted by their mean, the best at the top. The untrained student and the ceiling are lines.

    Args:
        records (iterable of [`Record`]):
            Results of a study.
        test (`str`, *optional*), corpus (`str`, *optional*):
            Test set and training corpus. Required if the records have several.
        measure (`str`, defaults to `"AP"`):
            One of the records' measures.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: the records do not have this test or corpus, or have several or none.
    """
    cells = pool_seeds(records)
    table = headline(cells, *_which(cells, test, corpus))
    complete = table.ranking(table.columns[0], measure)
    # From bottom to top; methods that lack a language are at the bottom.
    rivals = [*(method for method in table.rivals if method not in complete), *reversed(complete)]
    figure, axes = _panels(len(table.columns), 0.75 + 0.21 * max(len(rivals), 3), sharex=True, sharey=True)
    styles = method_styles(cells)
    for axis, column in zip(axes, table.columns, strict=True):
        _set_title(axis, column)
        for height, method in enumerate(rivals):
            if table.mean(method, column, measure) is not None:
                row = {language: table.table[method][language] for language in table.covered(column)}
                _plot_interval(axis, height, row, measure, styles[method])
        _plot_references(axis, "x", table, column, measure, styles)
        axis.grid(axis="y", visible=False)
        axis.set_yticks(range(len(rivals)), rivals)
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(-0.7, len(rivals) - 0.3)
    figure.supxlabel(f"{measure_label(measure)} on {table.test}, 95 % interval over queries", fontsize=9)
    _legend(figure, {method: styles[method] for method in table.table if method not in rivals})
    return figure


@styled
def plot_data_size(
    records: Iterable[Record], *, test: str | None = None, corpus: str | None = None, measure: str = "AP"
) -> Figure:
    """
    A measure by the number of training sentence pairs, on a logarithmic axis; one panel per language.

    See [`plot_languages`] for arguments and errors.
    """
    cells = pool_seeds(records)
    test, corpus = _which(cells, test, corpus)
    styles, table = method_styles(cells), headline(cells, test, corpus)
    curves = data_size_curves(cells, test, corpus, measure)
    references = {method for method in table.table if method not in table.rivals}
    figure, axes = _plot_curves(curves, styles, references)
    for axis, (panel, lines) in zip(axes, curves.items(), strict=True):
        axis.set_xscale("log")
        _plot_references(axis, "y", table, panel, measure, styles)
        _set_size_ticks(axis, positions(lines))
    return _labelled(figure, "sentence pairs per language (log scale)", f"{measure_label(measure)} on {test}")


@styled
def plot_robustness(
    records: Iterable[Record], *, test: str | None = None, corpus: str | None = None, measure: str = "AP"
) -> Figure:
    """
    A measure, averaged over languages, by the strength of each perturbation; one panel per perturbation.

    See [`plot_languages`] for arguments and errors.
    """
    cells = pool_seeds(records)
    test, corpus = _which(cells, test, corpus)
    curves = robustness_curves(cells, test, corpus, measure)
    figure, axes = _plot_curves(
        {kind.replace("_", " "): lines for kind, lines in curves.items()}, method_styles(cells)
    )
    for axis, lines in zip(axes, curves.values(), strict=True):
        axis.set_xticks(positions(lines))
        axis.xaxis.set_major_formatter("{x:g}")
    label = f"{measure_label(measure)} on {test}, mean over languages"
    return _labelled(figure, "strength of the perturbation (share of what could be changed)", label)


@styled
def plot_domains(records: Iterable[Record], *, measure: str = "AP") -> Figure:
    """
    A measure by training corpus (rows) and test set (columns); one panel per method.

    Raises:
        ValueError: no method has a corpus with two tests in the same language, or a test with two corpora.
    """
    matrices = domain_matrices(pool_seeds(records), measure)
    if not matrices:
        raise ValueError("records must have a corpus with two tests in one language, or a test with two corpora")
    corpora = list(dict.fromkeys(corpus for matrix in matrices.values() for corpus, _ in matrix))
    tests = list(dict.fromkeys(test for matrix in matrices.values() for _, test in matrix))
    values = [value for matrix in matrices.values() for value in matrix.values()]
    middle = (min(values) + max(values)) / 2
    columns = 4 if len(tests) < 4 else 2
    # Labels of 8 points are slanted where they would touch.
    slanted = 0.075 * sum(len(test) + 2 for test in tests) > 0.75 * WIDTH / min(columns, len(matrices))
    slant: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    height, extra = 0.45 + 0.3 * len(corpora), 0.9 if slanted else 0.5
    figure, axes = _panels(len(matrices), height, columns=columns, extra=extra, sharex=True, sharey=True)
    for axis, (method, matrix) in zip(axes, matrices.items(), strict=True):
        _set_title(axis, method)
        grid = [[matrix.get((corpus, test), math.nan) for test in tests] for corpus in corpora]
        image = axis.imshow(grid, cmap="cividis", vmin=min(values), vmax=max(values), aspect="auto")
        for (row, corpus), (column, test) in itertools.product(enumerate(corpora), enumerate(tests)):
            value = matrix.get((corpus, test))
            colour = "#555555" if value is None else "white" if value < middle else "black"
            axis.text(column, row, number(value), ha="center", va="center", fontsize=8, color=colour)
        axis.set_xticks(range(len(tests)), tests, **slant)
        axis.set_yticks(range(len(corpora)), corpora)
        axis.tick_params(length=0)
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, label=measure_label(measure), shrink=0.9, pad=0.02)
    return _labelled(figure, "tested on (mean over its languages)", "trained on")


@styled
def plot_language_pairs(records: Iterable[Record], *, corpus: str | None = None, measure: str = "AP") -> Figure:
    """
    The share of the gap closed by the number of languages trained together; one panel per language.

    If the untrained student or the ceiling is missing, it shows the measure itself. See [`plot_languages`] for
    arguments and errors.
    """
    cells = pool_seeds(records)
    corpus = _the_only("corpus", corpus, [cell.corpus for cell in cells if cell.learns])
    curves, is_gap = language_pair_curves(cells, corpus, measure)
    titled = {("mean, where complete" if panel == MEAN else panel): lines for panel, lines in curves.items()}
    figure, axes = _plot_curves(titled, method_styles(cells), sharex=True)
    axes[0].set_xticks(sorted({x for lines in curves.values() for x in positions(lines)}))
    label = measure_label(measure)
    for axis in axes if is_gap else ():
        axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    return _labelled(figure, "languages trained together", f"share of the {label} gap closed" if is_gap else label)


def _plot_curves(
    curves: Curves, styles: Styles, references: Iterable[str] = (), **shared: bool
) -> tuple[Figure, list[Axes]]:
    """One panel per entry of `curves`, with a legend of the methods drawn."""
    figure, axes = _panels(len(curves), 2.1, sharey=True, **shared)
    for axis, (panel, lines) in zip(axes, curves.items(), strict=True):
        _set_title(axis, panel)
        for method, points in lines.items():
            axis.plot([x for x, _ in points], [y for _, y in points], **styles[method])
    drawn = {*references, *(method for lines in curves.values() for method in lines)}
    _legend(figure, {method: style for method, style in styles.items() if method in drawn})
    return figure, axes


def _labelled(figure: Figure, x: str, y: str) -> Figure:
    figure.supxlabel(x, fontsize=9)
    # Wrapped to the height; a character of 9 points takes about 0.07 inches.
    figure.supylabel(textwrap.fill(y, int(figure.get_figheight() / 0.075)), fontsize=9)
    return figure


def _set_title(axis: Axes, title: str) -> None:
    """Set a title, wrapped to the width of the axis."""
    columns = axis.get_subplotspec().get_gridspec().ncols  # type: ignore[union-attr]
    # Width of 9.5 points bold in inches, and share of the figure's width that is axes.
    title = "mean over languages" if title == MEAN else title
    axis.set_title(textwrap.fill(title, int(0.8 * WIDTH / columns / 0.085)))


def _panels(
    count: int, height: float, *, columns: int = 4, extra: float = 0.8, **shared: Any
) -> tuple[Figure, list[Axes]]:
    """`count` axes in rows of equal length, each `height` inches high, with `extra` inches for shared labels."""
    from matplotlib.figure import Figure

    rows = math.ceil(count / columns)
    columns = math.ceil(count / rows)
    figure = Figure(figsize=(WIDTH, rows * height + extra), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
    for axis in axes[count:]:
        axis.remove()
    for axis in axes[max(count - columns, 0) : count]:
        axis.tick_params(labelbottom=True)
    return figure, axes[:count]


def _plot_interval(axis: Axes, height: float, row: Row, measure: str, style: Mapping[str, Any]) -> None:
    """Plot a mean with its bootstrap interval over the queries."""
    value = fmean(cell.mean(measure) for cell in row.values())
    low, high = bootstrap_interval({language: cell.values[measure] for language, cell in row.items()})
    errors = [[max(value - low, 0.0)], [max(high - value, 0.0)]]
    axis.errorbar([value], [height], xerr=errors, **{**style, "linestyle": "none"}, elinewidth=1.3, capsize=0)


def _plot_references(axis: Axes, along: str, table: Headline, column: str, measure: str, styles: Styles) -> None:
    """Draw lines across the axes at the values of the references on the axis `"x"` or `"y"`."""
    for method, row in table.table.items():
        value = table.mean(method, column, measure)
        if first(row).is_reference and value is not None:
            line = axis.axvline if along == "x" else axis.axhline
            line(value, **styles[method], linewidth=1.1, zorder=1)
            # Such lines do not count for the limits by themselves.
            axis.update_datalim([(value, value)], updatex=along == "x", updatey=along == "y")
            axis.autoscale_view()


def _set_size_ticks(axis: Axes, sizes: Sequence[float]) -> None:
    """Set ticks at the sizes, without those whose labels would overlap that of the next larger size."""
    kept: list[float] = []
    width = math.log(sizes[-1] / sizes[0]) if sizes else 0.0
    for size in reversed(sizes):
        if not kept or math.log(kept[-1] / size) > 0.17 * width:
            kept.append(size)
    axis.set_xticks(kept, [f"{size:.0f}" if size < 1000 else f"{size / 1000:.3g}k" for size in kept])
    axis.minorticks_off()


def _legend(figure: Figure, styles: Styles) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], label=method, **style) for method, style in styles.items()]
    if lines:
        # Width of the longest name at 8.5 points, with its line, in inches.
        columns = int(WIDTH / (0.6 + 0.07 * max(map(len, styles))))
        figure.legend(handles=lines, loc="outside upper center", ncols=max(min(len(lines), 5, columns), 1))


def _which(cells: Sequence[Cell], test: str | None, corpus: str | None) -> tuple[str, str | None]:
    found = places_of(cells)
    test = _the_only("test", test, [name for name, _ in found])
    return test, _the_only("corpus", corpus, [name for own, name in found if own == test])


def _the_only(name: str, value: str | None, found: Iterable[str | None]) -> Any:
    """`value`, or the only one found if it is `None`."""
    found = list(dict.fromkeys(found))
    if value is None and len(found) == 1:
        return found[0]
    check_choice(name, value, found)
    return value
