import ast
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer
from study_records import MEASURE, record, references

from hf_optical.evaluation import bootstrap_interval, gap_closed
from hf_optical.studies import figures
from hf_optical.studies.figures import (
    method_styles,
    plot_data_size,
    plot_domains,
    plot_language_pairs,
    plot_languages,
    plot_robustness,
)
from hf_optical.studies.tables import NOTHING


LANGUAGES = ("ha", "ig", "yo", "cs", "de", "fr")


@pytest.fixture
def many():
    """Ten methods with long names and two references, in six languages."""
    methods = [f"a method with a name, {number}" for number in range(10)]
    return [
        record(method, 0.2 + 0.04 * place, language, size=size, pairs=size or 5865)
        for place, method in enumerate(methods)
        for language in LANGUAGES
        for size in (500, None)
    ] + references(LANGUAGES)


def lines_of(axis, skip=()):
    return [line for line in axis.get_lines() if len(line.get_xdata()) and line.get_linestyle() not in skip]


def dots_of(axis):
    return [container for container in axis.containers if isinstance(container, ErrorbarContainer)]


def labels(axis):
    return [label.get_text() for label in axis.get_yticklabels()]


def test_dots_and_intervals_match_the_records():
    records = [
        record(method, level, language)
        for method, level in (("greedy", 0.3), ("ot", 0.5), ("sentence", 0.4))
        for language in ("ha", "ig")
    ] + references(["ha", "ig"])

    figure = plot_languages(records, measure=MEASURE)

    mean, ha, ig = figure.axes
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["mean over languages", "ha", "ig"]
    assert labels(mean) == ["greedy", "sentence", "ot"]  # the best on top
    own = next(each for each in records if (each.method, each.language) == ("ot", "ig"))
    dot = dots_of(ig)[2]
    assert dot.lines[0].get_xdata()[0] == pytest.approx(own.mean(MEASURE))
    (low, high) = dot.lines[2][0].get_segments()[0][:, 0]
    assert (low, high) == pytest.approx(bootstrap_interval(own.values[MEASURE]))
    both = [each.mean(MEASURE) for each in records if each.method == "ot"]
    assert dots_of(mean)[2].lines[0].get_xdata()[0] == pytest.approx(np.mean(both))
    upright = [line.get_xdata()[0] for line in lines_of(ha) if line.get_linestyle() in (":", "--")]
    expected = [each.mean(MEASURE) for each in records if each.language == "ha" and each.corpus is None]
    assert upright == pytest.approx(expected)
    # The limits include the reference lines.
    assert ha.get_xlim()[0] < min(expected) and max(expected) < ha.get_xlim()[1]


def test_methods_that_lack_a_language_are_not_in_the_mean():
    records = [record("ot", 0.5, "ha"), record("ot", 0.5, "ig"), record("greedy", 0.6, "ha")]

    mean, ha, ig = plot_languages(records, measure=MEASURE).axes

    assert [len(dots_of(axis)) for axis in (mean, ha, ig)] == [1, 2, 1]


def test_one_language_has_one_panel():
    (axis,) = plot_languages([record("ot", 0.5)], measure=MEASURE).axes

    assert axis.get_title(loc="left") == "ha"


def test_data_size_axis_is_logarithmic_in_actual_pairs():
    records = [
        record("ot", level, size=size, pairs=pairs) for level, size, pairs in ((0.3, 500, 500), (0.5, None, 5865))
    ]

    (axis,) = plot_data_size([*records, *references(["ha"])], measure=MEASURE).axes

    (curve,) = (line for line in lines_of(axis) if line.get_linestyle() == "-")
    assert axis.get_xscale() == "log"
    assert list(curve.get_xdata()) == [500, 5865]
    assert curve.get_ydata() == pytest.approx([each.mean(MEASURE) for each in records])
    assert [label.get_text() for label in axis.get_xticklabels()] == ["5.87k", "500"]


def test_robustness_has_a_panel_for_each_perturbation():
    clean, changed = record("ot", 0.5), record("ot", 0.4, perturbation="typing_errors", strength=0.2)
    other = record("ot", 0.45, perturbation="case", strength=0.3)

    figure = plot_robustness([clean, changed, other], measure=MEASURE)

    assert [axis.get_title(loc="left") for axis in figure.axes] == ["typing errors", "case"]
    (curve,) = lines_of(figure.axes[0])
    assert list(curve.get_xdata()) == [0, 0.2]
    assert curve.get_ydata() == pytest.approx([clean.mean(MEASURE), changed.mean(MEASURE)])


def test_domain_matrix_shows_its_values():
    records = [
        record("ot", level, test=test, corpus=corpus)
        for level, test, corpus in ((0.6, "questions", "news"), (0.3, "captions", "news"), (0.5, "captions", "web"))
    ]
    ends = [*references(["ha"], "questions"), *references(["ha"], "captions")]

    axis, bar = plot_domains([*records, *ends], measure=MEASURE).axes

    image = axis.get_images()[0].get_array()
    assert labels(axis) == [NOTHING, "news", "web"]
    expected = [[ends[0].mean(MEASURE), ends[2].mean(MEASURE)], [records[0].mean(MEASURE), records[1].mean(MEASURE)]]
    assert np.asarray(image[:2]) == pytest.approx(np.array(expected))
    assert image.mask[2, 0] if np.ma.is_masked(image) else np.isnan(image[2, 0])
    assert [text.get_text() for text in axis.texts][2:] == [
        *(f"{own.mean(MEASURE):.3f}" for own in records[:2]),
        "–",
        f"{records[2].mean(MEASURE):.3f}",
    ]
    assert bar.get_ylabel() == "MAP"


def test_share_of_the_gap_by_number_of_languages():
    alone = record("ot", 0.3)
    both = [record("ot", 0.4, language, languages=("ha", "ig")) for language in ("ha", "ig")]
    zero, _, top, _ = ends = references(["ha", "ig"])

    figure = plot_language_pairs([alone, *both, *ends], measure=MEASURE)

    (curve,) = lines_of(figure.axes[0])
    expected = [gap_closed(zero.mean(MEASURE), own.mean(MEASURE), top.mean(MEASURE)) for own in (alone, both[0])]
    assert list(curve.get_xdata()) == [1, 2] and curve.get_ydata() == pytest.approx(expected)


def test_methods_look_the_same_in_all_figures_and_no_two_alike(many):
    styles, before = method_styles(many), dict(matplotlib.rcParams)
    sizes = plot_data_size(many, measure=MEASURE)
    dots = plot_languages(many, measure=MEASURE)
    assert dict(matplotlib.rcParams) == before
    assert len({(style["color"], style["marker"], style["linestyle"]) for style in styles.values()}) == len(styles)

    rivals = [method for method, style in styles.items() if style["marker"] != "none"]
    for method, curve in zip(rivals, lines_of(sizes.axes[0], skip=(":", "--")), strict=True):
        dot = dots_of(dots.axes[0])[labels(dots.axes[0]).index(method)].lines[0]
        assert (curve.get_color(), curve.get_marker()) == (dot.get_color(), dot.get_marker())
        assert (curve.get_color(), curve.get_marker()) == (styles[method]["color"], styles[method]["marker"])


def test_known_kinds_look_the_same_in_all_studies():
    alone = method_styles([record("Greedy", 0.5, kind="greedy")])
    among = method_styles([record("x", 0.5), record("OT", 0.5, kind="ot"), record("Greedy", 0.5, kind="greedy")])

    assert alone["Greedy"] == among["Greedy"] != among["OT"]


@pytest.mark.parametrize("plot", [plot_languages, plot_data_size])
def test_nothing_overlaps_with_twelve_methods_and_six_languages(many, plot):
    figure = plot(many, measure=MEASURE)
    figure.draw_without_rendering()

    axes = [axis.get_tightbbox() for axis in figure.axes]
    texts = [figure.texts[0].get_window_extent(), *(legend.get_window_extent() for legend in figure.legends)]
    texts += [text.get_window_extent() for text in figure.texts[1:]]
    boxes = [*axes, *texts]
    assert not [(i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])]
    for axis in figure.axes:
        for ticks in (axis.get_xticklabels(), axis.get_yticklabels()):
            own = [tick.get_window_extent() for tick in ticks if tick.get_visible() and tick.get_text()]
            assert not [(i, j) for i in range(len(own)) for j in range(i) if own[i].overlaps(own[j])]
    assert all(0 <= box.x0 and box.x1 <= figure.bbox.x1 + 1 for box in boxes)
    assert figure.get_figwidth() == 9


def test_ambiguous_tests_and_corpora_raise_errors():
    records = [record("ot", 0.5, test=test, corpus=corpus) for test in ("a", "b") for corpus in ("c", "d")]

    with pytest.raises(ValueError, match="test must be one of 'a', 'b', got None"):
        plot_languages(records, measure=MEASURE)
    with pytest.raises(ValueError, match="corpus must be one of 'c', 'd', got 'e'"):
        plot_languages(records, test="a", corpus="e", measure=MEASURE)
    assert len(plot_languages(records, test="a", corpus="c", measure=MEASURE).axes) == 1
    with pytest.raises(ValueError, match="must have a corpus with two tests"):
        plot_domains([record("ot", 0.5)], measure=MEASURE)


def test_missing_matplotlib_raises_an_error_with_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(ImportError, match=r'pip install "hf_optical\[plots\]"'):
        plot_languages([record("ot", 0.5)], measure=MEASURE)


def test_matplotlib_is_imported_lazily():
    imported = [
        node for node in ast.parse(Path(figures.__file__).read_text("utf-8")).body if isinstance(node, ast.Import)
    ]

    assert imported and not [name for node in imported for name in node.names if "matplotlib" in name.name]
    assert not hasattr(figures, "matplotlib") and not hasattr(figures, "Figure")
