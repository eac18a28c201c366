"""What a paper takes from a study: tables in LaTeX, all means as CSV, and the versions of the software."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import platform
from collections.abc import Sequence

from .sections import Content
from .store import Record


_PACKAGES = ("hf_optical", "torch", "transformers", "peft", "accelerate", "datasets", "POT", "numpy", "scipy")
_SPECIAL = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
}


def latex_table(scores: Content, label: str, name: str) -> str:
    r"""
    A table of scores in LaTeX, which needs the package `booktabs`.

    A row is a method, a column a language. The best method of a column is bold, with a dagger if it is better than
    the runner-up; references are in italics and do not compete. After `\pm` comes the standard deviation over
    training runs.

    Args:
        scores (`dict`): from [`~hf_optical.studies.sections.score_table`].
        label (`str`): name of the measure.
        name (`str`): label of the table, behind `tab:`.
    """
    columns, rows = scores["columns"], scores["rows"]
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"\toprule",
        " & ".join(["Method", *map(latex, columns)]) + r" \\",
        r"\midrule",
    ]
    for method, row in rows.items():
        title = rf"\emph{{{latex(method)}}}" if row["is_reference"] else latex(method)
        cells = []
        for column in columns:
            score = row["scores"][column]
            text = f"{score['value']:.3f}" if score else "--"
            if method == scores["best"][column]:
                text = rf"\textbf{{{text}}}" + (r"$^{\dagger}$" if scores["winners"][column] == method else "")
            if score and score["seed_std"] is not None:
                text += rf"\,{{\scriptsize$\pm${score['seed_std']:.3f}}}"
            cells.append(text)
        lines.append(" & ".join([title, *cells]) + r" \\")
    caption = (
        rf"{latex(label)} on {latex(scores['place'])}. Bold: best; $\dagger$: significantly better than the runner-up "
        r"(Holm's correction over all comparisons of the study, 5\,\%). Italics: references."
    )
    if scores["has_seeds"]:
        caption += r" $\pm$: standard deviation over training runs."
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", rf"\label{{tab:{name}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def latex(text: str) -> str:
    """Text as LaTeX prints it."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def results_csv(records: Sequence[Record], measures: Sequence[str]) -> str:
    """One line for each method, test set, language, training run and perturbation: means over the queries."""
    settings = ("method", "kind", "test", "language", "corpus", "size", "pairs", "seed", "perturbation", "strength")
    times = ("seconds", "search_seconds")
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*settings, "languages", "queries", *measures, *times])
    for record in records:
        own = [getattr(record, name) for name in settings]
        means = [f"{record.mean(measure):.6f}" for measure in measures]
        queries = len(record.values[measures[0]])
        seconds = [f"{getattr(record, name):.1f}" for name in times]
        writer.writerow([*own, "+".join(record.languages), queries, *means, *seconds])
    return file.getvalue()


def versions() -> str:
    """Versions of Python and of the packages that decide results, as a constraints file of pip."""
    lines = [f"# Python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    for package in _PACKAGES:
        try:
            lines.append(f"{package}=={importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
            continue
    return "\n".join(lines) + "\n"
