from __future__ import annotations

import pytest
from tiny import demo_pairs, tiny_tokenizer

from hf_optical import OpticalProcessor
from hf_optical.bitext.frequency import count_known, count_written, known_of_written


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_words_counted_before_and_after_normalising_are_the_same(kind):
    processor = OpticalProcessor(tiny_tokenizer(kind))
    texts = [pair[code] for pair in demo_pairs() for code in ("sw", "en")] + ["E\u0301ko, \u00c9ko na e\u0301ko 7up!"]
    assert known_of_written(processor, count_written(texts)) == count_known(processor, texts)
