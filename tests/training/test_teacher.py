from __future__ import annotations

import json
import logging
import pickle
import socket
from concurrent.futures import ThreadPoolExecutor

import datasets
import pyarrow as pa
import pytest
import torch
from tiny import demo_pairs, tiny_checkpoint

from hf_optical import OpticalModel, OpticalProcessor
from hf_optical.languages import add_adapter, default_lora_config
from hf_optical.training import teacher as module
from hf_optical.training.teacher import TeacherVectors


TEXTS = [pair["en"] for pair in demo_pairs()][:40]
BOTH = ("query", "document")


@pytest.fixture
def counted(tiny_model):
    """The teacher, and the number of rows of each of its calls."""
    rows = []
    tiny_model.register_forward_pre_hook(
        lambda _, args, inputs: rows.append(len(inputs["input_ids"])), with_kwargs=True
    )
    return tiny_model, rows


def tokenize(processor, texts, roles=("query",)):
    return processor.pad([processor(texts, role) for role in roles])


def check_equal(vectors, teacher, batch, tolerance):
    """Compare cached vectors with the teacher's own at every position without padding."""
    cached = vectors(batch)
    with torch.no_grad():
        online = teacher(**batch).embeddings
    present = batch["attention_mask"].bool() | batch["token_mask"]
    assert cached.shape == online.shape and cached.dtype == vectors.dtype
    assert not cached[~present].any()
    assert (cached[present].float() - online[present]).abs().max() <= tolerance


def test_cached_vectors_equal_those_of_the_teacher(tiny_model, tiny_processor, tmp_path):
    """In any order, with repetitions, both roles, an empty text, and different padding."""
    texts = [*TEXTS, "", TEXTS[0]]
    vectors = TeacherVectors.prepare(
        tiny_model, tiny_processor, texts, BOTH, tmp_path, batch_size=7, dtype=torch.float32, show_progress=False
    )
    # Without markers, a query and a document have the same tokens.
    assert len(vectors) == len(set(texts))
    for chosen in ([texts[i] for i in (5, 40, 3, 5, 41, 17)], texts, [""]):
        check_equal(vectors, tiny_model, tokenize(tiny_processor, chosen, BOTH), 1e-6)


def test_one_text_at_a_time_is_exact(tiny_model, tiny_processor, tmp_path):
    vectors = TeacherVectors.prepare(
        tiny_model, tiny_processor, TEXTS, folder=tmp_path, batch_size=1, dtype=torch.float32, show_progress=False
    )
    for text in TEXTS[:5]:
        check_equal(vectors, tiny_model, tokenize(tiny_processor, [text]), 0.0)


def test_cached_vectors_with_markers_and_expansion(tmp_path):
    """Mask tokens after a query have vectors too, attended to or not."""
    folder = tiny_checkpoint(tmp_path / "model", "modernbert", projection_dim=12)
    teacher = OpticalModel.from_pretrained(folder)
    for settings in ({}, {"query_expansion": True}, {"query_expansion": True, "attend_to_expansion": True}):
        processor = OpticalProcessor.from_pretrained(folder, query_length=24, **settings)
        vectors = TeacherVectors.prepare(
            teacher, processor, TEXTS, BOTH, tmp_path / "cache", dtype=torch.float32, show_progress=False
        )
        check_equal(vectors, teacher, tokenize(processor, TEXTS, BOTH), 1e-6)


def test_only_missing_texts_are_encoded(counted, tiny_processor, tmp_path):
    teacher, rows = counted

    def prepare(texts, roles=("query",), processor=tiny_processor, **options):
        rows.clear()
        vectors = TeacherVectors.prepare(
            teacher, processor, texts, roles, tmp_path, batch_size=8, show_progress=False, **options
        )
        return vectors, sum(rows)

    assert prepare(TEXTS[:20])[1] == 20
    first, read = prepare([*TEXTS[:20], TEXTS[3]])
    assert read == 0 and len(first) == 20
    second, read = prepare(TEXTS[10:30])
    assert read == 10 and len(second) == 30 and second.nbytes > first.nbytes
    assert set(first.shards) < set(second.shards)
    assert prepare(TEXTS[:20], BOTH)[1] == 0
    # The tokens that match do not affect the vectors; truncation does, for longer texts.
    assert prepare(TEXTS[:20], BOTH, OpticalProcessor(tiny_processor.tokenizer, skip_tokens=[]))[1] == 0
    lengths = tiny_processor(TEXTS[:20], "query")["attention_mask"].sum(1)
    room = int(lengths.median())
    longer = int((lengths > room).sum())
    assert 0 < longer < 20
    assert prepare(TEXTS[:20], processor=OpticalProcessor(tiny_processor.tokenizer, query_length=room))[1] == longer
    # Other dtypes, weights and configurations share no vectors.
    assert prepare(TEXTS[:5], dtype=torch.float32)[1] == 5
    assert prepare(TEXTS[:5], autocast=torch.bfloat16)[1] == 5
    assert prepare([])[1] == 0
    with torch.no_grad():
        teacher.encoder.embeddings.word_embeddings.weight[7] += 1
    assert prepare(TEXTS[:5])[1] == 5
    teacher.config.encoder_config.layer_norm_eps = 0.1
    assert prepare(TEXTS[:5])[1] == 5


def test_batches_group_texts_by_length(counted, tiny_processor, tmp_path):
    teacher, _ = counted
    shapes = []
    teacher.register_forward_pre_hook(
        lambda _, args, inputs: shapes.append(inputs["attention_mask"].float().mean()), with_kwargs=True
    )
    TeacherVectors.prepare(teacher, tiny_processor, TEXTS, folder=tmp_path, batch_size=8, show_progress=False)
    unsorted = torch.stack(
        [tiny_processor(TEXTS[i : i + 8], "query")["attention_mask"].float().mean() for i in range(0, 40, 8)]
    )
    assert torch.stack(shapes).mean() > 0.85 > unsorted.mean()


def test_mode_of_the_teacher_is_restored(tiny_model, tiny_processor, tmp_path):
    """Dropout is off while it encodes."""
    expected = TeacherVectors.prepare(tiny_model, tiny_processor, TEXTS, folder=tmp_path / "a", show_progress=False)
    tiny_model.train()
    vectors = TeacherVectors.prepare(tiny_model, tiny_processor, TEXTS, folder=tmp_path / "b", show_progress=False)
    assert tiny_model.training
    batch = tokenize(tiny_processor, TEXTS)
    assert torch.equal(vectors(batch), expected(batch))


def test_default_folder_and_log(tiny_model, tiny_processor, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with caplog.at_level(logging.INFO, module.__name__):
        vectors = TeacherVectors.prepare(tiny_model, tiny_processor, TEXTS, show_progress=False)
    assert all(tmp_path / "hf_optical" in shard.parents for shard in vectors.shards)
    tokens = int(tiny_processor(list(set(TEXTS)), "query")["attention_mask"].sum())
    assert f"{len(set(TEXTS))} query texts to encode, {tokens * 32 * 2 / 1e6:.1f} MB more" in caplog.text
    assert tokens * 32 * 2 < vectors.nbytes < 1.2 * tokens * 32 * 2
    assert f"megabytes={vectors.nbytes / 1e6:.1f}" in repr(vectors)


def test_datasets_opens_a_shard(tiny_model, tiny_processor, tmp_path):
    vectors = TeacherVectors.prepare(tiny_model, tiny_processor, TEXTS, folder=tmp_path, show_progress=False)
    (shard,) = vectors.shards
    longest = datasets.Dataset.from_file(str(shard))[0]["vectors"]
    lengths = tiny_processor(TEXTS, "query")["attention_mask"].sum(1)
    row = vectors(tokenize(tiny_processor, TEXTS))[lengths.argmax(), : lengths.max()]
    assert torch.equal(torch.tensor(longest, dtype=torch.float16), row)


@pytest.mark.parametrize("damage", ["truncated", "one bit", "removed"])
def test_texts_of_a_damaged_shard_are_encoded_again(counted, tiny_processor, tmp_path, caplog, monkeypatch, damage):
    teacher, rows = counted
    monkeypatch.setattr(module, "_SHARD_BYTES", 1)
    options = {"folder": tmp_path, "batch_size": 8, "dtype": torch.float32, "show_progress": False}
    shards = TeacherVectors.prepare(teacher, tiny_processor, TEXTS, **options).shards
    assert len(shards) == 5
    content = bytearray(shards[2].read_bytes())
    content[-600] ^= 1
    if damage == "removed":
        shards[2].unlink()
    else:
        shards[2].write_bytes(content[:-600] if damage == "truncated" else content)
    rows.clear()
    with caplog.at_level(logging.WARNING, module.__name__):
        vectors = TeacherVectors.prepare(teacher, tiny_processor, TEXTS, **options)
    assert rows == [8]
    assert (f"Removing {shards[2]}, which is damaged" in caplog.text) == (damage != "removed")
    check_equal(vectors, teacher, tokenize(tiny_processor, TEXTS), 1e-6)


def test_error_keeps_the_vectors_stored_before(counted, tiny_processor, tmp_path, monkeypatch):
    teacher, rows = counted
    options = {"folder": tmp_path, "batch_size": 8, "show_progress": False}
    TeacherVectors.prepare(teacher, tiny_processor, TEXTS[:8], **options)

    def full(path):
        if path.name == "shard":
            raise OSError(28, "No space left on device")
        return path.stem

    with monkeypatch.context() as patch:
        patch.setattr(module, "_digest", full)
        with pytest.raises(OSError, match="could not save to .*No space left on device.*free some space") as error:
            TeacherVectors.prepare(teacher, tiny_processor, TEXTS, **options)
    assert error.value.errno == 28 and str(tmp_path) in str(error.value)
    assert not list(tmp_path.rglob(".saving-*"))
    rows.clear()
    assert len(TeacherVectors.prepare(teacher, tiny_processor, TEXTS, **options)) == 40 and sum(rows) == 32


def test_pickling_sends_only_paths_and_lookups_allocate_no_arrow_memory(tiny_model, tiny_processor, tmp_path):
    vectors = TeacherVectors.prepare(tiny_model, tiny_processor, TEXTS, folder=tmp_path, show_progress=False)
    batch, before = tokenize(tiny_processor, TEXTS), pa.total_allocated_bytes()
    sent = pickle.dumps(vectors)
    assert len(sent) < 1000
    assert torch.equal(pickle.loads(sent)(batch), vectors(batch))
    assert pa.total_allocated_bytes() == before


def test_invalid_arguments_raise(tiny_model, tiny_processor, tmp_path):
    with pytest.raises(ValueError, match="dtype must be one of torch.float16, torch.float32, got torch.bfloat16"):
        TeacherVectors.prepare(tiny_model, tiny_processor, TEXTS, folder=tmp_path, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        TeacherVectors.prepare(tiny_model, tiny_processor, TEXTS, folder=tmp_path, batch_size=0)
    with pytest.raises(ValueError, match="'query'.*'document'"):
        TeacherVectors.prepare(tiny_model, tiny_processor, TEXTS, ("passage",), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        TeacherVectors.prepare(tiny_model, tiny_processor, TEXTS, folder=tmp_path / "file", show_progress=False)
    vectors = TeacherVectors.prepare(tiny_model, tiny_processor, TEXTS, folder=tmp_path / "a", show_progress=False)
    with pytest.raises(KeyError, match="1 rows of the batch have no teacher vectors, the first is row 2"):
        vectors(tokenize(tiny_processor, [*TEXTS[:2], "never seen"]))
    empty = TeacherVectors.prepare(tiny_model, tiny_processor, [], folder=tmp_path / "empty", show_progress=False)
    assert len(empty) == empty.nbytes == 0
    with pytest.raises(KeyError, match="1 rows"):
        empty(tokenize(tiny_processor, ["never seen"]))


def test_teacher_with_an_active_pack_raises(tiny_model, tiny_processor, tmp_path):
    """The fingerprint is that of the base, whose vectors the cache would return."""
    add_adapter(tiny_model, "sw", default_lora_config(tiny_model, rank=2))
    with pytest.raises(ValueError, match="active language pack of the teacher must be None, got 'sw'"):
        TeacherVectors.prepare(tiny_model, tiny_processor, TEXTS, folder=tmp_path)


PREPARE = """
    import json, os, signal, sys, time
    from pathlib import Path
    sys.path.insert(0, "tests")
    from accelerate import PartialState
    from tiny import demo_pairs
    from hf_optical import OpticalModel, OpticalProcessor
    from hf_optical.training import teacher as module
    folder, cache = os.environ["FOLDER"], os.environ["CACHE"]
    teacher, processor = OpticalModel.from_pretrained(folder), OpticalProcessor.from_pretrained(folder)
    texts = [pair["en"] for pair in demo_pairs()][:40]
    module._SHARD_BYTES = 25_000
    PartialState(cpu=True)
    Path(cache, f"ready-{os.getpid()}").touch()
    while len(list(Path(cache).glob("ready-*"))) < int(os.environ["PROCESSES"]):
        time.sleep(0.01)
    batches = []

    def read(*_):
        batches.append(1)
        if len(batches) == int(os.environ.get("KILL", 0)):
            os.kill(os.getpid(), signal.SIGKILL)

    teacher.register_forward_pre_hook(read)
    vectors = module.TeacherVectors.prepare(teacher, processor, texts, folder=cache, batch_size=8, show_progress=False)
    total = vectors(processor.queries(texts)).float().sum().item()
    print(json.dumps({"batches": len(batches), "texts": len(vectors), "total": total}), flush=True)
    os._exit(0)
"""


@pytest.mark.promise(
    "Stopping anywhere",
    "The teacher's cache survives a kill: stored texts are not encoded again, and a damaged file is detected and "
    "its texts are encoded again.",
)
def test_cache_of_a_killed_run_is_continued(run_python, tiny, counted, tiny_processor, tmp_path):
    outcome = run_python(PREPARE, FOLDER=str(tiny), CACHE=str(tmp_path), KILL="4", PROCESSES="1", OMP_NUM_THREADS="1")
    assert outcome.returncode == -9, outcome.stderr
    assert list(tmp_path.rglob(".saving-*")), "it must be killed while it writes"
    stored = sum(len(datasets.Dataset.from_file(str(shard))) for shard in tmp_path.glob("*/*/*.arrow"))
    assert 0 < stored < 40
    teacher, rows = counted
    vectors = TeacherVectors.prepare(teacher, tiny_processor, TEXTS, folder=tmp_path, show_progress=False)
    assert sum(rows) == 40 - stored
    assert not list(tmp_path.rglob(".saving-*"))
    check_equal(vectors, teacher, tokenize(tiny_processor, TEXTS), 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("one_run", [False, True])
def test_two_processes_share_the_cache(run_python, tiny, counted, tiny_processor, tmp_path, one_run):
    """Two runs at the same time, and two processes of one run, of which only the first encodes."""
    environment = {"FOLDER": str(tiny), "CACHE": str(tmp_path), "PROCESSES": "2", "OMP_NUM_THREADS": "1"}
    if one_run:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        environment |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "1"}

    def start(rank):
        ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if one_run else {}
        return run_python(PREPARE, **environment, **ranks)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(start, range(2)))
    assert [outcome.returncode for outcome in outcomes] == [0, 0], outcomes[0].stderr + outcomes[1].stderr
    first, second = (json.loads(outcome.stdout.splitlines()[-1]) for outcome in outcomes)
    assert first["total"] == second["total"] and first["texts"] == 40
    if one_run:
        assert (first["batches"], second["batches"]) == (5, 0)
    teacher, rows = counted
    vectors = TeacherVectors.prepare(teacher, tiny_processor, TEXTS, folder=tmp_path, show_progress=False)
    assert rows == [] and not list(tmp_path.rglob(".saving-*"))
    check_equal(vectors, teacher, tokenize(tiny_processor, TEXTS), 1e-3)
