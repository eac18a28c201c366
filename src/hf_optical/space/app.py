"""The page: one tab to search in a new language, one to look at alignments."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from torch import Tensor

from ..bitext import inverse_document_frequency
from ..evaluation.datasets import field, read_rows, translation_of
from ..hub.language_names import language_name
from ..index import IndexedDocument, read_documents
from ..plots import align_words, match_words, plot_alignment
from ..retrieval import OpticalRetriever, TokenVectors, open_retriever
from . import rendering


PASSAGES, EXAMPLES, EXAMPLE_LENGTH, VISITORS = 5, 4, 48, 8


@dataclass
class Collection:
    """Passages to search, their vectors, the weight of each token, and example questions -> English, or `""`."""

    documents: list[IndexedDocument]
    vectors: TokenVectors
    weights: Tensor
    questions: dict[str, str]

    @classmethod
    def read(cls, file: str | os.PathLike, retriever: OpticalRetriever) -> Collection:
        documents = list(read_documents(file))
        texts = [document.full_text for document in documents]
        queries = Path(file).with_name("queries.jsonl")
        rows = [(row, where) for _, row, where in read_rows(queries)] if queries.is_file() else []
        return cls(
            documents,
            TokenVectors.from_list(retriever.encode_documents(texts, show_progress=True)),
            inverse_document_frequency(retriever.processor, texts),
            {field(row, "text", where, str): translation_of(row, where) or "" for row, where in rows},
        )


def open_page(packs: Sequence[str | os.PathLike], documents: str | os.PathLike, port: int | None = None) -> None:
    """
    Open the page and serve it until the process is stopped.

    Args:
        packs (sequence of `str` or `os.PathLike`): Folders or Hub ids of packs of one base, or of a model.
        documents (`str` or `os.PathLike`):
            The passages, as in [`~index.read_documents`]. The questions of a `queries.jsonl` in the same folder, with
            their English in `metadata.translation`, become examples.
        port (`int`, *optional*): Port to listen on. Defaults to the first free one from 7860.

    Raises:
        OSError: a pack or a model is not found.
        ValueError: the documents or the questions are invalid.
    """
    retriever = open_retriever(packs)
    print(f"Reading the passages of {documents}")
    page = build_page(retriever, Collection.read(documents, retriever))
    # Gradio's own fonts lack letters of many languages, and words would be drawn in two.
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", radius_size="lg", font=["system-ui", "sans-serif"])
    style = Path(__file__).with_name("style.css")
    page.launch(server_port=port, theme=theme, css_paths=style, footer_links=[], ssr_mode=False)


def build_page(retriever: OpticalRetriever, collection: Collection) -> gr.Blocks:
    """Build the page with a search tab and an alignment tab."""

    def on_search(question: str, language: str) -> str:
        return search(retriever, collection, question.strip(), language)

    def on_align(text: str, translation: str, language: str) -> str:
        return align(retriever, text.strip(), translation.strip(), language)

    names = [language_name(code) for code in retriever.languages]
    choices = [(f"Read by the {name} pack", code) for name, code in zip(names, retriever.languages, strict=True)]
    choices.append(("Read by the untrained base", "base"))
    chosen = retriever.language
    questions, pairs = examples(collection.questions)
    asked_in = " or ".join(names) or "your language"
    box: dict[str, Any] = {"container": False, "show_label": False, "max_length": 1000, "min_width": 220, "scale": 1}
    concurrent = {"concurrency_limit": VISITORS, "show_progress": "minimal"}
    # Matplotlib is not thread-safe: draw one picture at a time.
    sequential = {"concurrency_limit": 1, "show_progress": "minimal"}
    # Without analytics_enabled=False, Gradio reports every start to its makers.
    with gr.Blocks(title="hf_optical", analytics_enabled=False) as page:
        gr.HTML(rendering.heading(asked_in, len(collection.documents)))
        language = gr.Radio(
            choices, value=chosen, show_label=False, container=False, visible=len(choices) > 1, elem_id="language"
        )
        with gr.Tab("Search"):
            with gr.Row(elem_classes="ask"):
                question = gr.Textbox(
                    questions[0],
                    label="Question",
                    placeholder=f"A question in {asked_in}",
                    elem_id="question",
                    **box,
                )
                button = gr.Button("Search", variant="primary", scale=0, min_width=110, elem_id="search")
            shown = gr.HTML(on_search(questions[0], chosen) if questions[0] else "", elem_id="found", render=False)
            searched: dict[str, Any] = {
                "fn": on_search,
                "inputs": [question, language],
                "outputs": shown,
                **concurrent,
            }
            clicked = gr.Examples(
                questions, question, label="Try", elem_id="questions", visible=questions != [""]
            ).load_input_event
            clicked.then(**searched, api_visibility="private")
            shown.render()
            gr.on([button.click, question.submit, language.change], **searched, api_name="search")
        with gr.Tab("Alignment"):
            with gr.Row(elem_classes="ask"):
                sides = [
                    gr.Textbox(pair, label=label, placeholder=label, elem_id=name, **box)
                    for name, label, pair in zip(
                        ("text", "english"),
                        (f"A sentence in {asked_in}", "The same in English"),
                        pairs[0],
                        strict=True,
                    )
                ]
                button = gr.Button("Align", variant="primary", scale=0, min_width=110, elem_id="align")
            text, translation = pairs[0]
            plan = gr.HTML(on_align(text, translation, chosen) if text else "", elem_id="plan", render=False)
            aligned: dict[str, Any] = {"fn": on_align, "inputs": [*sides, language], "outputs": plan, **sequential}
            labels = [text for text, _ in pairs]
            clicked = gr.Examples(
                pairs, sides, label="Try", example_labels=labels, elem_id="pairs", visible=labels != [""]
            ).load_input_event
            clicked.then(**aligned, api_visibility="private")
            plan.render()
            submits = [side.submit for side in sides]
            gr.on([button.click, *submits, language.change], **aligned, api_name="align")
    return page


def examples(questions: dict[str, str]) -> tuple[list[str], list[list[str]]]:
    """A few short questions, and a few with their English translations; empty strings if there are none."""
    short = [pair for pair in questions.items() if len(pair[0]) <= EXAMPLE_LENGTH]
    translated = [list(pair) for pair in short if pair[1]]
    return [text for text, _ in sample(short)] or [""], sample(translated) or [["", ""]]


def sample(items: list) -> list:
    """A few items at equal distances."""
    return items[:: max(len(items) // EXAMPLES, 1)][:EXAMPLES]


def search(retriever: OpticalRetriever, collection: Collection, question: str, language: str) -> str:
    """The passages found for a question, as HTML."""
    if not question:
        return rendering.note("Type a question first.")
    hits = retriever.search(question, collection.vectors, PASSAGES, language=language)
    documents = [collection.documents[int(hit.document)] for hit in hits]
    try:
        matches = match_words(
            retriever, question, [each.full_text for each in documents], language, passage_weights=collection.weights
        )
    except ValueError as error:
        return rendering.note(str(error))
    largest = float(collection.weights.max())
    cards = [
        rendering.card(document.title, document.full_text, hit.score, found, largest)
        for document, hit, found in zip(documents, hits, matches, strict=True)
    ]
    return rendering.passages(cards, collection.questions.get(question, ""))


def align(retriever: OpticalRetriever, text: str, translation: str, language: str) -> str:
    """The picture of what transport aligns, as HTML."""
    if not text or not translation:
        return rendering.note("Type a sentence and its English translation first.")
    try:
        alignment = align_words(retriever, text, translation, language)
    except ValueError as error:
        return rendering.note(str(error))
    return rendering.picture(plot_alignment(alignment), f"Words of “{text}” aligned with those of “{translation}”")
