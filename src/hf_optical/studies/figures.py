"""
The figures of a study, for its report and for notebooks: records in, `matplotlib.figure.Figure` out.

A method has the same colour and marker in every figure that is drawn from the same records.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ..evaluation.significance import bootstrap_interval
from ..hub.results import measure_label
from ..plots.style import COLOURS, GREY, MARKERS, styled
from .store import Record
from .tables import (
    MEAN,
    Cell,
    Table,
    competitors,
    data_size_curves,
    domain_matrices,
    headline,
    language_pair_curves,
    languages_of,
    mean_over,
    places_of,
    pool_seeds,
    ranking,
    robustness_curves,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 9.0  # inches; a README shows about this much

_REFERENCE_LINES = {"zero_shot": ":", "ceiling": "--", "human": "-."}
# The first method of each of these kinds looks the same in the reports of all studies.
_USUAL = ("ot", "code_switch", "hybrid", "greedy", "sentence")


def method_styles(records: Iterable[Record | Cell]) -> dict[str, dict[str, Any]]:
    """Method -> colour, marker and filling, as keywords of `Axes.plot`; the references are grey and have no marker."""
    kinds = {record.method: record.kind for record in records}
    styles: dict[str, dict[str, Any]] = {
        method: {"color": GREY, "marker": "none", "linestyle": _REFERENCE_LINES[kind]}
        for method, kind in kinds.items()
        if kind in _REFERENCE_LINES
    }
    rivals = [method for method in kinds if method not in styles]
    slots = {}
    for slot, kind in enumerate(_USUAL):
        slots |= dict.fromkeys([method for method in rivals if kinds[method] == kind][:1], slot)
    first = len(_USUAL)
    free = [slot for slot in [*range(first, len(COLOURS)), *range(first)] if slot not in slots.values()]
    free += range(len(COLOURS), len(COLOURS) + len(rivals))
    slots |= zip((method for method in rivals if method not in slots), free, strict=False)
    for method in rivals:
        colour = COLOURS[slots[method] % len(COLOURS)]
        # A colour that comes again is hollow, and its marker another.
        filling = colour if slots[method] < len(COLOURS) else "white"
        marker = MARKERS[slots[method] % len(MARKERS)]
        styles[method] = {"color": colour, "marker": marker, "markerfacecolor": filling, "linestyle": "-"}
    return {method: styles[method] for method in kinds}


@styled
def plot_languages(
    records: Iterable[Record], *, test: str | None = None, corpus: str | None = None, measure: str = "AP"
) -> Figure:
    """
    A measure by language and method, with 95 % bootstrap intervals over the queries; one panel a language.

    The methods are in the order of their mean, the best on top; the untrained student and the ceiling are lines.

    Args:
        records (iterable of [`Record`]):
            What was measured.
        test (`str`, *optional*), corpus (`str`, *optional*):
            The test set and what was trained on. May be left out where there is one only.
        measure (`str`, defaults to `"AP"`):
            One of the records' measures.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: there is no such test or corpus, there are several and none is named, or nothing was measured.
    """
    cells = pool_seeds(records)
    test, corpus = _which(cells, test, corpus)
    table = headline(cells, test, corpus)
    languages = languages_of(table)
    whole = ranking(competitors(table), languages, measure)
    # Bottom to top; below all of them those that lack a language.
    rivals = [*(method for method in competitors(table) if method not in whole), *reversed(whole)]
    panels = ([MEAN] if len(languages) > 1 else []) + languages
    figure, axes = _panels(len(panels), 0.75 + 0.21 * max(len(rivals), 3), sharex=True, sharey=True)
    styles = method_styles(cells)
    for axis, panel in zip(axes, panels, strict=True):
        covered = languages if panel == MEAN else [panel]
        _set_title(axis, _title(panel))
        for height, method in enumerate(rivals):
            if mean_over(table[method], covered, measure) is not None:
                _dot(
                    axis, height, {language: table[method][language] for language in covered}, measure, styles[method]
                )
        _reference_lines(axis, "x", table, covered, measure, styles)
        axis.grid(axis="y", visible=False)
        axis.set_yticks(range(len(rivals)), rivals)
        axis.tick_params(axis="y", length=0)
        axis.set_ylim(-0.7, len(rivals) - 0.3)
    figure.supxlabel(f"{measure_label(measure)} on {test}, 95 % interval over queries", fontsize=9)
    _legend(figure, {method: styles[method] for method in table if method not in rivals})
    return figure


@styled
def plot_data_size(
    records: Iterable[Record], *, test: str | None = None, corpus: str | None = None, measure: str = "AP"
) -> Figure:
    """
    A measure against the number of sentence pairs trained on, on a logarithmic axis; one panel a language.

    Arguments and errors are those of [`plot_languages`].
    """
    cells = pool_seeds(records)
    test, corpus = _which(cells, test, corpus)
    styles, reference = method_styles(cells), headline(cells, test, corpus)
    curves = data_size_curves(cells, test, corpus, measure)
    figure, axes = _panels(len(curves), 2.1, sharey=True)
    for axis, (panel, lines) in zip(axes, curves.items(), strict=True):
        _set_title(axis, _title(panel))
        axis.set_xscale("log")
        for method, points in lines.items():
            axis.plot([x for x, _ in points], [y for _, y in points], **styles[method])
        covered = languages_of(reference) if panel == MEAN else [panel]
        _reference_lines(axis, "y", reference, covered, measure, styles)
        _size_ticks(axis, sorted({x for points in lines.values() for x, _ in points}))
    figure.supxlabel("sentence pairs per language (log scale)", fontsize=9)
    figure.supylabel(f"{measure_label(measure)} on {test}", fontsize=9)
    _legend(figure, {method: styles[method] for method in _in_order(cells, curves, reference)})
    return figure


@styled
def plot_robustness(
    records: Iterable[Record], *, test: str | None = None, corpus: str | None = None, measure: str = "AP"
) -> Figure:
    """
    A measure, mean over languages, against the strength of each perturbation of the queries; one panel a perturbation.

    Arguments and errors are those of [`plot_languages`].
    """
    cells = pool_seeds(records)
    test, corpus = _which(cells, test, corpus)
    styles, curves = method_styles(cells), robustness_curves(cells, test, corpus, measure)
    figure, axes = _panels(len(curves), 2.1, sharey=True)
    for axis, (perturbation, lines) in zip(axes, curves.items(), strict=True):
        _set_title(axis, perturbation.replace("_", " "))
        for method, points in lines.items():
            axis.plot([x for x, _ in points], [y for _, y in points], **styles[method])
        axis.set_xticks(sorted({x for points in lines.values() for x, _ in points}))
        axis.xaxis.set_major_formatter("{x:g}")
    figure.supxlabel("strength of the perturbation (share of what could be changed)", fontsize=9)
    figure.supylabel(f"{measure_label(measure)} on {test}, mean over languages", fontsize=9)
    _legend(figure, {method: styles[method] for method in _in_order(cells, curves)})
    return figure


@styled
def plot_domains(records: Iterable[Record], *, measure: str = "AP") -> Figure:
    """
    A measure by what was trained on (rows) and what it was tested on (columns); one panel a method.

    Args:
        records (iterable of [`Record`]): what was measured.
        measure (`str`, defaults to `"AP"`): one of the records' measures.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: no method has a corpus with two tests or a test with two corpora.
    """
    matrices = domain_matrices(pool_seeds(records), measure)
    if not matrices:
        raise ValueError("records hold no corpus with two tests and no test with two corpora; no matrix to draw")
    corpora = list(dict.fromkeys(corpus for matrix in matrices.values() for corpus, _ in matrix))
    tests = list(dict.fromkeys(test for matrix in matrices.values() for _, test in matrix))
    values = [value for matrix in matrices.values() for value in matrix.values()]
    middle = (min(values) + max(values)) / 2
    columns = 4 if len(tests) < 4 else 2
    # Names of 8 points side by side, or slanted where they would touch.
    slanted = 0.075 * sum(len(test) + 2 for test in tests) > 0.75 * WIDTH / min(columns, len(matrices))
    slant = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    figure, axes = _panels(
        len(matrices),
        0.45 + 0.3 * len(corpora),
        columns=columns,
        extra=0.9 if slanted else 0.5,
        sharex=True,
        sharey=True,
    )
    for axis, (method, matrix) in zip(axes, matrices.items(), strict=True):
        _set_title(axis, method)
        grid = [[matrix.get((corpus, test), math.nan) for test in tests] for corpus in corpora]
        image = axis.imshow(grid, cmap="cividis", vmin=min(values), vmax=max(values), aspect="auto")
        for row, column in ((row, column) for row in range(len(corpora)) for column in range(len(tests))):
            value = grid[row][column]
            text, colour = (
                ("–", "#555555") if math.isnan(value) else (f"{value:.3f}", "white" if value < middle else "black")
            )
            axis.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
        axis.set_xticks(range(len(tests)), tests, **slant)
        axis.set_yticks(range(len(corpora)), corpora)
        axis.tick_params(length=0)
        axis.grid(visible=False)
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.colorbar(image, ax=axes, label=measure_label(measure), shrink=0.9, pad=0.02)
    figure.supxlabel("tested on (mean over its languages)", fontsize=9)
    figure.supylabel("trained on", fontsize=9)
    return figure


@styled
def plot_language_pairs(records: Iterable[Record], *, corpus: str | None = None, measure: str = "AP") -> Figure:
    """
    The share of the gap closed by the number of languages trained together; the measure itself, where the untrained
    student or the ceiling is missing. One panel a language.

    Args:
        records (iterable of [`Record`]): what was measured.
        corpus (`str`, *optional*): what was trained on. May be left out where there is one only.
        measure (`str`, defaults to `"AP"`): one of the records' measures.

    Raises:
        ImportError: matplotlib is missing.
        ValueError: there is no such corpus, or there are several and none is named.
    """
    cells = pool_seeds(records)
    corpus = _the_only("corpus", corpus, [cell.corpus for cell in cells if cell.learns])
    styles = method_styles(cells)
    curves, is_gap = language_pair_curves(cells, corpus, measure)
    figure, axes = _panels(len(curves), 2.1, sharex=True, sharey=True)
    for axis, (panel, lines) in zip(axes, curves.items(), strict=True):
        _set_title(axis, "mean, where complete" if panel == MEAN else panel)
        for method, points in lines.items():
            axis.plot([x for x, _ in points], [y for _, y in points], **styles[method])
    axes[0].set_xticks(sorted({x for lines in curves.values() for points in lines.values() for x, _ in points}))
    label = measure_label(measure)
    figure.supxlabel("languages trained together", fontsize=9)
    figure.supylabel(f"share of the {label} gap closed" if is_gap else label, fontsize=9)
    if is_gap:
        for axis in axes:
            axis.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    _legend(figure, {method: styles[method] for method in _in_order(cells, curves)})
    return figure


def _title(panel: str) -> str:
    return "mean over languages" if panel == MEAN else panel


def _set_title(axis: Axes, title: str) -> None:
    """Over an axis, and no wider: in several lines if need be."""
    columns = axis.get_subplotspec().get_gridspec().ncols
    # What 9.5 points bold take, in inches, and what axes have of the width.
    axis.set_title(textwrap.fill(title, int(0.8 * WIDTH / columns / 0.085)))


def _panels(
    count: int, height: float, *, columns: int = 4, extra: float = 0.8, **shared: bool
) -> tuple[Figure, list[Axes]]:
    """`count` axes in rows of equal length, each `height` inches high; `extra` inches for what belongs to all."""
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


def _dot(axis: Axes, height: float, row: Mapping[str, Cell], measure: str, style: Mapping[str, Any]) -> None:
    """A mean with the interval that the choice of queries leaves."""
    value = fmean(cell.mean(measure) for cell in row.values())
    low, high = bootstrap_interval({language: cell.values[measure] for language, cell in row.items()})
    spread = [[max(value - low, 0.0)], [max(high - value, 0.0)]]
    axis.errorbar([value], [height], xerr=spread, **{**style, "linestyle": "none"}, elinewidth=1.3, capsize=0)


def _reference_lines(
    axis: Axes, along: str, table: Table, languages: Sequence[str], measure: str, styles: Mapping[str, dict[str, Any]]
) -> None:
    """Lines across the axes where the references stand `along` the axis `"x"` or `"y"`."""
    for method, row in table.items():
        value = mean_over(row, languages, measure)
        if next(iter(row.values())).is_reference and value is not None:
            line = axis.axvline if along == "x" else axis.axhline
            line(value, **styles[method], linewidth=1.1, zorder=1)
            # Such a line is not looked at when the limits are chosen.
            axis.update_datalim([(value, value)], updatex=along == "x", updatey=along == "y")
            axis.autoscale_view()


def _size_ticks(axis: Axes, sizes: Sequence[float]) -> None:
    """The sizes there are, less those whose labels would run into that of the next larger."""
    kept: list[float] = []
    width = math.log(sizes[-1] / sizes[0]) if sizes else 0.0
    for size in reversed(sizes):
        if not kept or math.log(kept[-1] / size) > 0.17 * width:
            kept.append(size)
    axis.set_xticks(kept, [f"{size:.0f}" if size < 1000 else f"{size / 1000:.3g}k" for size in kept])
    axis.minorticks_off()


def _in_order(
    cells: Sequence[Cell], curves: Mapping[str, Mapping[str, Any]], reference: Table | None = None
) -> list[str]:
    """The methods that are drawn, in the order of the records."""
    drawn = {method for lines in curves.values() for method in lines}
    drawn |= {method for method, row in (reference or {}).items() if next(iter(row.values())).is_reference}
    return [method for method in dict.fromkeys(cell.method for cell in cells) if method in drawn]


def _legend(figure: Figure, styles: Mapping[str, Mapping[str, Any]]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], label=method, **style) for method, style in styles.items()]
    if lines:
        # What the longest name takes at 8.5 points, with its line, in inches.
        columns = int(WIDTH / (0.6 + 0.07 * max(map(len, styles))))
        figure.legend(handles=lines, loc="outside upper center", ncols=max(min(len(lines), 5, columns), 1))


def _which(cells: Sequence[Cell], test: str | None, corpus: str | None) -> tuple[str, str | None]:
    found = places_of(cells)
    test = _the_only("test", test, [name for name, _ in found])
    return test, _the_only("corpus", corpus, [name for own, name in found if own == test])


def _the_only(what: str, asked: str | None, found: Iterable[str | None]) -> Any:
    """`asked`, if it is there; the only one there, if nothing is asked for."""
    found = list(dict.fromkeys(found))
    if asked in found:
        return asked
    if asked is None and len(found) == 1:
        return found[0]
    names = ", ".join(map(str, found)) or "none"
    raise ValueError(f"{what}={asked!r}: the records hold {names}; name one of them")
