from __future__ import annotations

import gzip

import pytest

from hf_optical.bitext import read_plain_text
from hf_optical.bitext.plain_text import check_language
from hf_optical.errors import DataError


SENTENCES = ["Watoto wanakula ugali.", "Basi limechelewa leo.", "x < y na y > z"]


def test_lines_are_read_from_plain_and_compressed_files(tmp_path):
    content = "\n\n".join(SENTENCES).encode()
    (tmp_path / "sw.txt").write_bytes(content)
    (tmp_path / "sw.txt.gz").write_bytes(gzip.compress(content))
    assert read_plain_text(tmp_path / "sw.txt") == read_plain_text(tmp_path / "sw.txt.gz") == SENTENCES


def test_markup_is_left_out_or_refused(tmp_path, caplog):
    file = tmp_path / "sw.txt"
    for marked in ("<p>Habari</p>", "{{Infobox}}", "[[Kenya]] ni nchi", "a&nbsp;b", '{"text": "Habari"}'):
        caplog.clear()
        file.write_text("\n".join([*SENTENCES, marked]), encoding="utf-8")
        assert read_plain_text(file) == SENTENCES, marked
        assert "1 of 4 lines of" in caplog.text and "markup" in caplog.text
    file.write_text("\n".join([*SENTENCES, *[marked] * 4]), encoding="utf-8")
    with pytest.raises(DataError, match=r"sw.txt must be plain text, but 4 of 7 lines have markup \(.*line 4"):
        read_plain_text(file)


def test_empty_and_missing_files_raise(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(DataError, match="empty.txt is empty; write a sentence"):
        read_plain_text(tmp_path / "empty.txt")
    with pytest.raises(DataError, match="nowhere.txt"):
        read_plain_text(tmp_path / "nowhere.txt")


@pytest.mark.parametrize(
    ("own", "english", "message"),
    [
        (0.3, 0.6, "60% of its words are words of 'en', and 30% words of 'sw'; pass another file"),
        (0.1, 0.05, "know only 10% of its words; pass another file"),
    ],
)
def test_text_of_another_language_is_refused(own, english, message):
    counts = {f"w{number}": 300 for number in range(100)}
    words = list(counts)
    with pytest.raises(DataError, match=message):
        check_language(counts, set(words[: int(100 * own)]), set(words[-int(100 * english) :]), "sw", "en")


def test_doubtful_and_short_texts_are_reported(caplog):
    counts = {f"w{number}": 300 for number in range(100)}
    check_language(counts, {*list(counts)[:40]}, set(), "sw", "en")
    assert "know only 40 % of the words in the plain text for sw" in caplog.text
    caplog.clear()
    check_language(counts, {*counts}, set(), "sw", "en")
    assert not caplog.text
    check_language({"moja": 10}, {"moja"}, set(), "sw", "en")
    assert "The plain text for sw has only 10 words" in caplog.text
    with pytest.raises(DataError, match="has no words"):
        check_language({}, {"moja"}, set(), "sw", "en")
