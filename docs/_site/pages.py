"""Pages that are not kept in `docs/`: the reference, generated from docstrings, and files of the repository."""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path

import griffe
import nbformat
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter


sys.path.insert(0, str(Path(__file__).parent))

import messages  # noqa: E402
from docstrings import PACKAGE, markdown, outside_code, prefer_imported, public_names, rooms  # noqa: E402


REPOSITORY = Path(__file__).parents[2]
# Pages whose text is a file of the repository.
COPIES = {
    "index.md": "README.md",
    "maintainers/changelog.md": "CHANGELOG.md",
    "maintainers/contributing.md": "CONTRIBUTING.md",
}
# Search shows explanations first and generated pages last. Of several folders that fit a page, the last one counts.
BOOSTS = {
    "how_to/": 4,
    "troubleshooting/": 4,
    "troubleshooting/all_messages": 1,
    "concepts/": 2,
    "reference/": 0.5,
    "measurements/studies/": 0.25,
}
# The progress and losses of a run: a notebook indents their HTML, so Markdown would show it as code.
_TRAINING = re.compile(r"\s*<div>\s*<progress.*?</div>\s*<table[^>]*>(.*?)</table>(?:<p>)?", flags=re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_files(files, config):
    """Add pages that are written here (a hook of mkdocs)."""
    pages = {page: copied_page(page, (REPOSITORY / source).read_text("utf-8")) for page, source in COPIES.items()}
    pages["troubleshooting/all_messages.md"] = messages.page(messages.explained(troubleshooting()))
    for path, content in {**pages, **reference()}.items():
        files.append(File.generated(config, path, content=content))
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        for path, content in notebook(file.src_uri, file.content_string).items():
            files.append(File.generated(config, path, content=content))
    return files


def troubleshooting() -> dict[str, str]:
    """The pages that explain messages: name -> Markdown."""
    return {path.name: path.read_text("utf-8") for path in (REPOSITORY / "docs" / "troubleshooting").glob("*.md")}


def on_page_markdown(markdown, page, **kwargs):
    """Let links to a file of the repository lead to the page that shows it; weigh pages for search."""
    for folder, boost in BOOSTS.items():
        if page.file.src_uri.startswith(folder):
            page.meta["search"] = {"boost": boost}
    if page.file.src_uri in COPIES:
        return markdown
    pages = {source: path for path, source in COPIES.items()}

    def rewrite(match):
        target, mark, anchor = match[3].partition("#")
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page.file.src_uri), target))
        if path not in pages:
            return match[0]
        shown = posixpath.relpath(pages[path], posixpath.dirname(page.file.src_uri) or ".")
        return f"[{match[2]}]({shown}{mark}{anchor})"

    return outside_code(markdown, lambda text: _LINK.sub(rewrite, text))


def on_page_content(html, page, **kwargs):
    """
    Keep options such as `--epsilon` on one line, let sentences in tables wrap, and let wide figures of measurements
    be scrolled on narrow screens, where they would be too small to read.
    """
    html = re.sub(
        r"<code>[^<]*--[^<]*</code>",
        lambda code: re.sub(r"--\w+", lambda option: f'<span class="option">{option[0]}</span>', code[0]),
        html,
    )
    html = re.sub(r"<table>.*?</table>", lambda table: _with_sentences(table[0]), html, flags=re.DOTALL)
    if page.file.src_uri.startswith("measurements/"):
        html = re.sub(r"<p>(<img [^>]*>)</p>", r'<div class="figure">\1</div>', html)
    return html


def _with_sentences(table: str) -> str:
    """A table as it is or, if the cells on its right are sentences, with these on the left and allowed to wrap."""
    right = '<td style="text-align: right;">'
    return table.replace(right, "<td>") if re.search(right + "[^<]{30,}</td>", table) else table


def copied_page(page: str, text: str) -> str:
    """A file at the root of the repository as a page: links to what the site does not hold become plain text."""
    pages = {source: path for path, source in COPIES.items()}

    def rewrite(match):
        image, shown, target = match.groups()
        if "://" in target or target.startswith("#"):
            return match[0]
        path, mark, anchor = target.partition("#")
        path = path.removeprefix("docs/") if path.startswith("docs/") else pages.get(path)
        if path is None:
            return shown
        return f"{image}[{shown}]({posixpath.relpath(path, posixpath.dirname(page) or '.')}{mark}{anchor})"

    return outside_code(text, lambda part: _LINK.sub(rewrite, part))


def notebook(path: str, content: str) -> dict[str, bytes | str]:
    """A notebook with its outputs as a page, and its pictures."""
    exporter = MarkdownExporter()
    text, resources = exporter.from_notebook_node(nbformat.reads(content, as_version=4))
    text = _TRAINING.sub(lambda output: "\n\n<table>" + re.sub(r"\s*\n\s*", "", output[1]) + "</table>\n", text)
    text = text.replace("![png](", "![Figure that the code above draws](")
    folder, name = posixpath.split(path)
    head, line, rest = text.partition("\n")
    page = f"{head}{line}\n[Download this page as a notebook]({name}).\n{rest}"
    pictures = {posixpath.join(folder, picture): data for picture, data in resources.get("outputs", {}).items()}
    return {path.removesuffix(".ipynb") + ".md": page, **pictures}


def reference() -> dict[str, str]:
    """A page for each room with the names that it exports: path -> Markdown."""
    package = griffe.load(PACKAGE, search_paths=[REPOSITORY / "src"], resolve_aliases=True)
    prefer_imported(package)
    pages, owners = {}, {}
    for room in list(rooms(package))[1:]:
        pages[f"reference/{room.path}.md"] = room_page(room)
        owners |= {room[name].final_target.path: f"{room.path}.{name}" for name in public_names(room)}
    rows = [_row(package[name], owners[package[name].final_target.path]) for name in public_names(package)]
    listed = [
        f"| [`{path}`]({path}.md) | {_first_line(package[path.split('.')[1]])} |"
        for path in (Path(page).stem for page in pages)
    ]
    pages["reference/index.md"] = "\n".join(
        [
            "# Reference",
            "",
            f"Every public name, generated from the docstrings. `from {PACKAGE} import ...` gives:",
            "",
            "| Name | Purpose |",
            "|---|---|",
            *rows,
            "",
            "The subpackages have further names, such as `from hf_optical.bitext import filter_bitext`:",
            "",
            "| Subpackage | Purpose |",
            "|---|---|",
            *listed,
        ]
    )
    return pages


def room_page(room: griffe.Module) -> str:
    names = public_names(room)
    text = room.docstring.value if room.docstring else ""
    head = [f"# {room.name}", "", text, "", "| Name | Purpose |", "|---|---|"]
    rows = [_row(room[name], f"{room.path}.{name}") for name in names]
    return "\n".join([*head, *rows, "", *(f"::: {room.path}.{name}" for name in names)])


def _row(thing: griffe.Object | griffe.Alias, path: str) -> str:
    return f"| [`{thing.name}`][{path}] | {_first_line(thing)} |"


def _first_line(thing: griffe.Object | griffe.Alias) -> str:
    if not thing.docstring:
        return ""
    paragraph = " ".join(markdown(thing.docstring.value, lambda name: None).split("\n\n")[0].split())
    return re.sub(r"(?<=[.:]) [A-Z].*", "", paragraph).replace("|", "\\|")
