from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from browser import chromium, playwright  # noqa: F401
from packs import make_pack
from tiny import REPOSITORY, tiny_checkpoint

from hf_optical import OpticalModel, OpticalProcessor, OpticalRetriever


pytest.importorskip("gradio", reason="the page needs gradio")
pytest.importorskip("matplotlib", reason="the page draws with matplotlib")
gradio_client = pytest.importorskip("gradio_client")

from hf_optical.space import app  # noqa: E402


SPACE = REPOSITORY / "examples" / "space"
# Invented words whose vectors become those of English words.
MEANINGS = {"mzuqo": "water", "kitxbu": "market", "jofywe": "children"}
QUESTION, ENGLISH = "jofywe at the kitxbu", "Children at the market"
PASSAGES = {
    "Rain": "When it rains, water fills the river.",
    "Trade": "Children go to the market to buy fruit.",
    "<b>Bread</b>": "Bread is made from flour & salt.",
}
# Logs every address outside this machine that a process contacts.
GUARD = """
import os, sys
def note(event, arguments):
    if event in ("socket.getaddrinfo", "socket.connect"):
        host = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
        host = host[0] if isinstance(host, tuple) else host
        if str(host) not in ("None", "localhost", "127.0.0.1", "::1", "0.0.0.0", "") and not str(host).startswith("/"):
            with open(os.environ["CALLS"], "a") as file:
                print(event, host, file=file)
sys.addaudithook(note)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A base, a pack whose new words have English meanings, and passages with questions."""
    folder = tmp_path_factory.mktemp("own")
    tiny_checkpoint(folder / "base")
    pack = make_pack(folder / "base", "sw", seed=0, words=list(MEANINGS))
    tokenizer = OpticalProcessor.from_pretrained(folder / "base").tokenizer
    rows = OpticalModel.from_pretrained(folder / "base").get_input_embeddings().weight.detach()
    pack.vocabulary.rows.copy_(rows[tokenizer.convert_tokens_to_ids(list(MEANINGS.values()))])
    pack.weights = {name: torch.zeros_like(weight) for name, weight in pack.weights.items()}
    pack.save_pretrained(folder / "pack")
    rows = [{"_id": title, "title": title, "text": text} for title, text in PASSAGES.items()]
    questions = [{"_id": "q", "text": QUESTION, "metadata": {"translation": ENGLISH}}, {"_id": "r", "text": "mzuqo?"}]
    for name, lines in (("corpus", rows), ("queries", questions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def start(folder: Path, *arguments: object, **environment: str) -> tuple[subprocess.Popen, str]:
    """Start the app in a separate process and return it with the address of its page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "guard").mkdir(exist_ok=True)
    (folder / "guard" / "sitecustomize.py").write_text(GUARD)
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder / "guard"), os.environ.get("PYTHONPATH")]))}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(SPACE / "app.py"), "--port", str(port), *map(str, arguments)],
            cwd=folder,
            env={**os.environ, **paths, "CALLS": str(folder / "calls"), **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    for _ in range(4 * 400):
        if process.poll() is not None:
            break
        with socket.socket() as trial:
            if trial.connect_ex(("127.0.0.1", port)) == 0:
                return process, f"http://127.0.0.1:{port}/"
        time.sleep(0.25)
    process.kill()
    pytest.fail(f"the page did not start: {(folder / 'log').read_text()[-3000:]}")


@pytest.fixture(scope="module")
def address(own) -> Iterator[str]:
    process, address = start(own, "--pack", own / "pack", "--documents", own / "corpus.jsonl")
    yield address
    process.terminate()
    process.wait(20)


@pytest.fixture
def page(browser, address) -> Iterator[playwright.Page]:
    """The page as visitors see it; fails on browser errors, warnings and requests to other hosts."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    faults = []
    page.on("console", lambda message: faults.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    own = (address, "data:", "blob:")
    page.on("request", lambda asked: None if asked.url.startswith(own) else faults.append(asked.url))
    page.goto(address)
    page.set_default_timeout(20_000)
    yield page
    page.close()
    assert faults == []


def test_typed_question_finds_its_passage_and_marks_matches(page, tmp_path):
    page.fill("#question textarea", "mzuqo?")
    page.click("#search")

    first = page.locator(".passage").first
    playwright.expect(first.locator("h3")).to_contain_text("Rain")
    playwright.expect(first.locator("mark", has_text=re.compile("^water$"))).to_have_attribute("title", "mzuqo")
    playwright.expect(first.locator(".pairs li", has_text="mzuqo")).to_have_text(re.compile(r"mzuqo\s+water"))
    scores = [float(score) for score in page.locator(".score").all_inner_texts()]
    assert len(scores) == len(PASSAGES) and scores == sorted(scores, reverse=True)
    # Markup in a passage is shown as text.
    playwright.expect(page.locator(".passage h3", has_text="<b>Bread</b>")).to_be_visible()
    page.screenshot(path=tmp_path / "search.png")


def test_example_fills_the_question_and_shows_its_translation(page):
    page.get_by_role("button", name="mzuqo?").first.click()
    playwright.expect(page.locator(".passage").first).to_contain_text("Rain")
    page.get_by_role("button", name=QUESTION).first.click()
    playwright.expect(page.locator(".passage").first).to_contain_text("Trade")
    playwright.expect(page.locator(".english")).to_contain_text(ENGLISH)
    playwright.expect(page.locator("#question textarea")).to_have_value(QUESTION)


def test_base_without_the_pack_gives_other_scores(page):
    page.fill("#question textarea", "mzuqo?")
    page.click("#search")
    mark = page.locator("mark[title=mzuqo]", has_text=re.compile("^water$"))
    playwright.expect(mark).to_be_visible()
    before = page.locator(".score").all_inner_texts()
    page.get_by_label("untrained base").check()
    playwright.expect(page.locator(".score").first).not_to_have_text(before[0])


def test_alignment_is_drawn(page, tmp_path):
    page.get_by_role("tab", name="Alignment").click()
    page.fill("#text textarea", "jofywe mzuqo")
    page.fill("#english textarea", "children and water")
    page.click("#align")

    image = page.locator("figure.plan img")
    playwright.expect(image).to_have_attribute("alt", re.compile("jofywe mzuqo.*children and water"))
    assert image.evaluate("image => image.complete && image.naturalWidth") > 200
    page.screenshot(path=tmp_path / "alignment.png")


@pytest.mark.parametrize(("question", "message"), [("   ", "Type a question first"), ("[CLS]", "no word")])
def test_question_without_words_gives_a_message(page, question, message):
    page.fill("#question textarea", question)
    page.click("#search")
    playwright.expect(page.locator("#found .note")).to_contain_text(message)


def test_missing_translation_gives_a_message(page):
    page.get_by_role("tab", name="Alignment").click()
    page.fill("#english textarea", "")
    page.click("#align")
    playwright.expect(page.locator("#plan .note")).to_contain_text("English translation")


def test_phone_needs_no_horizontal_scrolling(page):
    page.set_viewport_size({"width": 360, "height": 780})
    for tab in ("Alignment", "Search"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(200)
        assert page.evaluate("document.scrollingElement.scrollWidth") <= 360


@pytest.mark.promise("Load and resources", "The demo page answers simultaneous visitors each in their own language.")
def test_simultaneous_visitors_are_answered_in_their_language(address):
    visitors = [gradio_client.Client(address, verbose=False, analytics_enabled=False) for _ in range(4)]
    languages = ["sw", "base"] * 2

    def ask(visitor: gradio_client.Client, language: str) -> str:
        return visitor.predict("mzuqo?", language, api_name="/search")

    expected = {language: ask(visitors[0], language) for language in languages}
    assert expected["sw"] != expected["base"] and "Rain" in expected["sw"]
    with ThreadPoolExecutor(len(visitors)) as threads:
        for _ in range(3):
            assert [*threads.map(ask, visitors, languages)] == [expected[language] for language in languages]


def test_app_contacts_no_other_machine(address, own):
    assert not (own / "calls").exists()


def test_missing_pack_is_a_one_line_error(own, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["app.py", "--pack", str(own / "nowhere")])
    with pytest.raises(SystemExit, match="error: .*nowhere"):
        runpy.run_path(str(SPACE / "app.py"), run_name="__main__")


def test_passages_without_words_are_shown(own):
    texts = [*PASSAGES.values(), "", "..."]
    rows = [{"_id": str(i), "text": text} for i, text in enumerate(texts)]
    (own / "odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    retriever = OpticalRetriever.from_pretrained(own / "pack", device="cpu")
    collection = app.Collection.read(own / "odd.jsonl", retriever)
    found = app.search(retriever, collection, QUESTION, "sw")
    assert found.count('class="passage"') == len(texts) and "<mark" in found


def test_invalid_translation_is_a_one_line_error(own, tmp_path, monkeypatch):
    for name in ("corpus", "queries"):
        shutil.copy(own / f"{name}.jsonl", tmp_path)
    with (tmp_path / "queries.jsonl").open("a") as file:
        print(json.dumps({"_id": "s", "text": "mzuqo", "metadata": {"translation": 3}}), file=file)
    documents = str(tmp_path / "corpus.jsonl")
    monkeypatch.setattr(sys, "argv", ["app.py", "--pack", str(own / "pack"), "--documents", documents])
    with pytest.raises(SystemExit, match="error: .*queries.jsonl, line 3: 'translation' must be str, got 3"):
        runpy.run_path(str(SPACE / "app.py"), run_name="__main__")


def test_card_of_the_space_is_complete():
    _, metadata, _ = (SPACE / "README.md").read_text(encoding="utf-8").split("---", 2)
    card = yaml.safe_load(metadata)
    assert card["sdk"] == "gradio" and (SPACE / card["app_file"]).is_file() and len(card["short_description"]) <= 60
    assert "[demo,plots,space]" in (SPACE / "requirements.txt").read_text()


@pytest.mark.slow
def test_app_without_a_pack_trains_one(browser, tmp_path):
    process, address = start(tmp_path, HF_DATASETS_CACHE=str(tmp_path / "cache"))
    try:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(address)
        page.fill("#question textarea", "Nitajuaje kama yai limeoza bila kulivunja?")
        page.click("#search")
        playwright.expect(page.locator(".passage").first).to_contain_text("The Float Test")
        assert (tmp_path / "outputs" / "space" / "sw" / "language_pack.json").is_file()
        assert "training a short one" in (tmp_path / "log").read_text()
        page.close()
    finally:
        process.terminate()
        process.wait(20)
