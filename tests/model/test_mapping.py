from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import demo_pairs, tiny_checkpoint

from hf_optical import OpticalModel, OpticalProcessor
from hf_optical.errors import DataError
from hf_optical.model.mapping import agreement, fit_map, token_spans


TEXTS = [pair["en"] for pair in demo_pairs()[:120]]


@pytest.fixture(scope="module")
def open_tiny(tmp_path_factory):
    def opened(architecture: str, **options):
        folder = tiny_checkpoint(tmp_path_factory.mktemp("model"), architecture, **options)
        return OpticalModel.from_pretrained(folder), OpticalProcessor.from_pretrained(folder)

    return opened


@pytest.mark.parametrize("architecture", ["bert", "xlm-roberta", "modernbert"])
def test_spans_are_the_characters_of_each_token(open_tiny, architecture):
    _, processor = open_tiny(architecture, query_prompt="ask: ", query_length=9, query_marker=None)
    text = "The farmer sells coffee at the market near the lake"
    (spans,) = token_spans(processor, [text], "query")
    (ids,) = processor([text], "query")["input_ids"]
    tokens = processor.tokenizer.convert_ids_to_tokens(ids)
    assert len(spans) == len(tokens) == 9
    assert spans[0].tolist() == [-1, -1] and spans[-1].tolist() == [-2, -2]
    found = [(token, text[start:stop]) for token, (start, stop) in zip(tokens, spans.tolist(), strict=True)][1:-1]
    read = [(token, part) for token, part in found if part]
    assert 2 <= len(read) < len(found), "tokens of the prompt stand for no character"
    for token, part in read:
        assert token.strip("▁Ġ#").lower() == part.strip().lower()


def test_projection_is_the_ridge_regression_of_numpy(open_tiny):
    """Student and teacher have one tokenizer, so tokens pair one to one."""
    student, teacher = (open_tiny("bert", seed=seed, projection_dim=dim) for seed, dim in ((1, None), (2, 8)))
    texts = TEXTS[:40]
    projected = fit_map(*student, *teacher, texts, ridge=1e-2)
    hidden, target = [], []
    with torch.no_grad():
        for text in texts:
            inputs = student[1].queries([text])
            target.append(teacher[0](**inputs).embeddings[0])
            del inputs["token_mask"]
            hidden.append(student[0].encoder(**inputs).last_hidden_state[0])
    x, y = (torch.cat(part).double().numpy() for part in (hidden, target))
    mean, target_mean = x.mean(0), y.mean(0)
    centred = x - mean
    covariance = centred.T @ centred / len(x)
    penalty = 1e-2 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    weight = np.linalg.inv(covariance + penalty) @ centred.T @ (y - target_mean) / len(x)
    np.testing.assert_allclose(projected.projection.weight.detach(), weight.T, atol=1e-4)
    np.testing.assert_allclose(projected.projection.bias.detach(), target_mean - mean @ weight, atol=1e-4)
    assert projected.encoder is student[0].encoder and projected.embedding_dim == 8


def test_other_tokenizer_and_size_are_projected_towards_the_teacher(open_tiny):
    student, teacher = open_tiny("xlm-roberta", seed=1), open_tiny("bert", seed=2, projection_dim=16)
    projected = fit_map(*student, *teacher, TEXTS[:100])
    found = agreement(projected, student[1], *teacher, TEXTS[100:])
    random = agreement(student[0].with_projection(torch.randn(16, 32)), student[1], *teacher, TEXTS[100:])
    assert found.same > found.other + 0.1 and found.same > 0.6 > random.same, (found, random)


def test_agreement_of_a_model_with_itself_is_one(open_tiny):
    model, other = open_tiny("bert", seed=1), open_tiny("bert", seed=2)
    assert agreement(*model, *model, TEXTS[:20]).same == pytest.approx(1, abs=1e-5)
    assert abs(agreement(*model, *other, TEXTS[:20]).same) < 0.4


def test_saved_projected_model_gives_the_same_vectors(open_tiny, tmp_path):
    student, teacher = open_tiny("bert", seed=1), open_tiny("bert", seed=2)
    projected = fit_map(*student, *teacher, TEXTS[:20])
    projected.save_pretrained(tmp_path)
    student[1].save_pretrained(tmp_path)
    again = OpticalModel.from_pretrained(tmp_path)
    inputs = student[1].queries(TEXTS[:3])
    assert torch.equal(again(**inputs).embeddings, projected(**inputs).embeddings)
    assert again.fingerprint() == projected.fingerprint() and projected.fitted and not again.fitted


def test_texts_without_common_tokens_raise(open_tiny):
    student, teacher = open_tiny("bert", seed=1), open_tiny("bert", seed=2)
    with pytest.raises(DataError, match="tokens that both models read"):
        fit_map(*student, *teacher, [" "])
