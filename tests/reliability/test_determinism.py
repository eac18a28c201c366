"""The same seed on the same machine gives the same results, bit for bit."""

from __future__ import annotations

import json

import pytest
import torch
from reliability.test_numbers import LOSSES, with_gradients
from strategies import Pairs
from tiny import DEMO, weights
from training.conftest import held_out, make_trainer, pairs, run_python, teacher_folder  # noqa: F401

from hf_optical import OpticalRetriever, OTDistillationTrainer, load_beir
from hf_optical.retrieval import search


# Everything that is random: dropout, switched words, the order of the pairs, new weights.
SETTINGS = {
    "method": "hybrid",
    "max_steps": 2,
    "disable_dropout": False,
    "lora_dropout": 0.1,
    "learning_rate": 5e-3,
    "per_device_train_batch_size": 5,
    "logging_steps": 1,
    "eval_strategy": "no",
    "save_strategy": "no",
    "disable_tqdm": True,
    "use_cpu": True,
}


@pytest.mark.promise(
    "Numbers",
    "The same seed on the same machine gives bit-identical losses, gradients, training runs (with dropout, code "
    "switching and new words), encodings and searches, also in a new process.",
)
def test_loss_and_gradient_are_reproducible() -> None:
    drawn = Pairs(((30, 25), (7, 31), (1, 4), (16, 16)), "random", "masked", torch.float32, 32, 0.0, seed=1)
    for name, loss in LOSSES.items():
        once, again = (with_gradients(loss, *drawn.tensors()) for _ in range(2))
        assert all(torch.equal(*both) for both in zip(once, again, strict=True)), name


def trained(trainer: OTDistillationTrainer) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The loss of every step, and the weights."""
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], weights(trainer.model)


def test_training_is_reproducible(make_trainer) -> None:  # noqa: F811
    runs = []
    for seed in (7, 7, 8):
        torch.manual_seed(len(runs))  # earlier random numbers do not matter
        runs.append(trained(make_trainer(**SETTINGS, seed=seed)))
    (losses, first), (losses_again, again), (_, other) = runs
    assert losses == losses_again and len(losses) == SETTINGS["max_steps"]
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_encoding_and_search_are_reproducible(tiny) -> None:
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    texts = [document.text for document in load_beir(DEMO / "retrieval").corpus.values()]
    read = [retriever.encode_documents(texts, batch_size=8) for _ in range(2)]
    assert all(torch.equal(*both) for both in zip(*read, strict=True))
    assert search(read[0][:9], read[0], top_k=5) == search(read[1][:9], read[1], top_k=5)
    # Equal documents are ordered by their position.
    assert [hit.document for hit in search(read[0][:1], read[0][:1] * 3, top_k=3)[0]] == [0, 1, 2]


@pytest.mark.slow
def test_results_are_reproducible_in_a_new_process(tiny, run_python, tmp_path) -> None:  # noqa: F811
    """Training, encoding and search in processes with different hash seeds."""
    code = f"""
        import hashlib, json, os
        import torch
        from hf_optical import OTDistillationConfig, OTDistillationTrainer, OpticalRetriever, load_beir, load_bitext

        torch.set_num_threads(1)
        folder = os.environ["FOLDER"]
        settings = OTDistillationConfig(output_dir=folder, language="sw", seed=7, **{SETTINGS})
        pairs = load_bitext("{DEMO}/train.jsonl", "sw").select(range(30))
        trainer = OTDistillationTrainer("{tiny}", "{tiny}", settings, train_dataset=pairs)
        trainer.train()
        trainer.save_model()
        test_set = load_beir("{DEMO}/retrieval")
        retriever = OpticalRetriever.from_pretrained(folder, device="cpu")
        documents = retriever.encode_documents([document.text for document in test_set.corpus.values()])
        queries = retriever.encode_queries([query.text for query in test_set.queries.values()])
        everything = [*dict(sorted(trainer.model.state_dict().items())).values(), *documents, *queries]
        print(json.dumps([
            [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
            [hashlib.sha256(tensor.detach().contiguous().numpy().tobytes()).hexdigest() for tensor in everything],
            [[(hit.document, hit.score) for hit in hits] for hits in retriever.search(queries, documents, top_k=5)],
        ]))
    """
    results = []
    for seed in ("1", "4321"):
        process = run_python(code, FOLDER=str(tmp_path / seed), PYTHONHASHSEED=seed)
        assert process.returncode == 0, process.stderr
        results.append(json.loads(process.stdout.splitlines()[-1]))
    losses, digests, hits = results[0]
    assert len(losses) == SETTINGS["max_steps"] and len(digests) > 50 and len(hits[0]) == 5
    assert results[0] == results[1]
