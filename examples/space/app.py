"""
Demo page: ask in the new language, read in English, and see which words transport aligns.

    python examples/space/app.py

uses the pack that `accelerate launch examples/distill.py` saves in outputs/sw. If there is none, it first trains one
for about a minute. With your own packs and passages:

    python examples/space/app.py --pack FOLDER_OR_ID --documents corpus.jsonl

Passages are JSON lines with `_id`, `title` and `text`. Questions in a `queries.jsonl` in the same folder, with their
English in `metadata.translation`, become clickable examples. On a Space, set the variables PACK and DOCUMENTS instead
of the options.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
import rendering
from torch import Tensor

from hf_optical import (
    LanguagePack,
    OpticalModel,
    OpticalProcessor,
    OpticalRetriever,
    OTDistillationConfig,
    OTDistillationTrainer,
    load_bitext,
)
from hf_optical.bitext import inverse_document_frequency
from hf_optical.evaluation.datasets import Document, field, read_documents, read_rows, translation_of
from hf_optical.plots import align_words, match_words, plot_alignment
from hf_optical.retrieval import TokenVectors


HERE = Path(__file__).parent
# Next to this file on a Space; one folder up in the repository.
DATA = next((folder for folder in (HERE / "data", HERE.parent / "data") if folder.is_dir()), HERE / "data")
BASE = "sentence-transformers/all-MiniLM-L6-v2"
TRAINED, SHORTLY_TRAINED = Path("outputs/sw"), Path("outputs/space/sw")
PASSAGES, EXAMPLES, EXAMPLE_LENGTH, VISITORS = 5, 4, 48, 8
LANGUAGES = {
    **{"am": "Amharic", "ha": "Hausa", "ig": "Igbo", "om": "Oromo", "rw": "Kinyarwanda", "sn": "Shona"},
    **{"so": "Somali", "sw": "Swahili", "ti": "Tigrinya", "wo": "Wolof", "xh": "Xhosa", "yo": "Yoruba", "zu": "Zulu"},
}


@dataclass
class Collection:
    """
    Passages to search.

    Attributes:
        documents (`list[Document]`): the passages.
        vectors ([`TokenVectors`]): vectors of the passages from the base without a pack.
        weights (`Tensor` of shape `(vocabulary,)`): inverse document frequency of each token.
        questions (`dict[str, str]`): example questions -> English translation, which may be empty.
    """

    documents: list[Document]
    vectors: TokenVectors
    weights: Tensor
    questions: dict[str, str]

    @classmethod
    def read(cls, file: Path, retriever: OpticalRetriever) -> Collection:
        documents = [Document(each.title.strip(), each.text.strip()) for _, each in read_documents(file)]
        texts = [passage_of(document) for document in documents]
        queries = file.with_name("queries.jsonl")
        rows = [(row, where) for _, row, where in read_rows(queries)] if queries.is_file() else []
        return cls(
            documents,
            TokenVectors.from_list(retriever.encode_documents(texts, show_progress=True)),
            inverse_document_frequency(retriever.processor, texts),
            {field(row, "text", where, str): translation_of(row, where) or "" for row, where in rows},
        )


def passage_of(document: Document) -> str:
    """Text of a document as it is encoded."""
    return f"{document.title} {document.text}".strip()


def main() -> None:
    arguments = parse()
    try:
        retriever = open_retriever(arguments.pack or [default_pack()])
        print(f"Encoding the passages in {arguments.documents}")
        collection = Collection.read(arguments.documents, retriever)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    page = build_page(retriever, collection)
    # Gradio's default fonts lack letters of many languages, which would split words between two fonts.
    theme = gr.themes.Base(primary_hue="blue", neutral_hue="slate", radius_size="lg", font=["system-ui", "sans-serif"])
    page.launch(server_port=arguments.port, theme=theme, css_paths=HERE / "style.css", footer_links=[], ssr_mode=False)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A page to ask in the new language and see what transport aligns.")
    packs = os.environ.get("PACK", "").split()
    documents = Path(os.environ.get("DOCUMENTS") or DATA / "retrieval" / "corpus.jsonl")
    parser.add_argument("--pack", nargs="+", default=packs, help="Folders or Hub ids of language packs.")
    parser.add_argument("--documents", type=Path, default=documents, help="Passages to search, JSON lines.")
    parser.add_argument("--port", type=int, default=None, help="Port to listen at. Default: the first free from 7860.")
    return parser.parse_args()


def default_pack() -> Path:
    """An existing pack for the embedded data, or one trained now."""
    for folder in (TRAINED, SHORTLY_TRAINED):
        if (folder / "language_pack.json").is_file():
            return folder
    print(f"No language pack in {TRAINED}; training a short one on the embedded sentence pairs (about a minute)")
    processor = OpticalProcessor.from_pretrained(BASE)
    trainer = OTDistillationTrainer(
        model=OpticalModel.from_pretrained(BASE),
        teacher=OpticalModel.from_pretrained(BASE),
        args=OTDistillationConfig(
            output_dir=str(SHORTLY_TRAINED),
            language="sw",
            num_train_epochs=3,
            eval_strategy="no",
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=load_bitext(DATA / "train.jsonl", "sw"),
        processing_class=processor,
        teacher_processing_class=processor,
    )
    trainer.train()
    trainer.save_model()
    return SHORTLY_TRAINED


def open_retriever(packs: list[str | Path]) -> OpticalRetriever:
    """Open the base of the first pack with all packs, or a model without packs."""
    retriever = OpticalRetriever.from_pretrained(packs[0])
    for name in packs[1:]:
        pack = LanguagePack.from_pretrained(name)
        retriever.add_language(pack.language, pack)
    return retriever


def build_page(retriever: OpticalRetriever, collection: Collection) -> gr.Blocks:
    """Build the page with a search tab and an alignment tab."""

    def on_search(question: str, language: str) -> str:
        return search(retriever, collection, question.strip(), language)

    def on_align(text: str, translation: str, language: str) -> str:
        return align(retriever, text.strip(), translation.strip(), language)

    names = [LANGUAGES.get(code, code) for code in retriever.languages]
    choices = [(f"Read by the {name} pack", code) for name, code in zip(names, retriever.languages, strict=True)]
    choices.append(("Read by the untrained base", "base"))
    chosen = retriever.language
    questions, pairs = examples(collection.questions)
    asked_in = " or ".join(names) or "your language"
    box = {"container": False, "show_label": False, "max_length": 1000, "min_width": 220, "scale": 1}
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
            searched = {"fn": on_search, "inputs": [question, language], "outputs": shown, **concurrent}
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
            plan = gr.HTML(on_align(*pairs[0], chosen) if pairs[0][0] else "", elem_id="plan", render=False)
            aligned = {"fn": on_align, "inputs": [*sides, language], "outputs": plan, **sequential}
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
    documents = [collection.documents[hit.document] for hit in hits]
    try:
        matches = match_words(
            retriever, question, [*map(passage_of, documents)], language, passage_weights=collection.weights
        )
    except ValueError as error:
        return rendering.note(str(error))
    largest = float(collection.weights.max())
    cards = [
        rendering.card(document.title, passage_of(document), hit.score, found, largest)
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


if __name__ == "__main__":
    main()
