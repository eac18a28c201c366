from __future__ import annotations

from hf_optical.methods import card_text


def test_given_loss_replaces_the_description_of_the_alignment():
    text, tags, citations = card_text({"method": "hybrid", "loss": "MyLoss"}, "English", "`MyLoss`")
    assert "the loss is `MyLoss`, which the trainer was given. In addition, the student learns to rank English" in text
    assert "optimal" not in text and tags == ("code-switching",) and len(citations) == 1


def test_unknown_method_has_no_description():
    assert card_text({"method": "of a later version"}, "English", "") == ("", (), ())
