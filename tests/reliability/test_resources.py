"""Exhausted resources: disk space, permissions, memory, file handles. Also clock jumps and leaks."""

from __future__ import annotations

import gc
import itertools
import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from packs import TEXTS, WORDS, assert_equal, make_pack
from reliability.measuring import Footprint, footprint, open_files
from tiny import demo_pairs
from training.conftest import (  # noqa: F401
    evaluator,
    held_out,
    make_trainer,
    make_two,
    pairs,
    teacher_folder,
    two,
    two_held_out,
)
from transformers import TrainerCallback

from hf_optical import LanguagePack, OpticalModel, OpticalProcessor, OpticalRetriever, OTDistillationTrainer
from hf_optical.retrieval import TokenVectors
from hf_optical.storage.staging import write_text
from hf_optical.training import teacher as teacher_cache
from hf_optical.training.checkpoints import checkpoint_to_resume, last_complete_checkpoint
from hf_optical.training.teacher import TeacherVectors


class Disk:
    """
    A small disk that can be filled up or write-protected, where the system allows mounting one.

    Elsewhere a limit on the file size and the permissions of the folder stand in for it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
        self.mounted = bool(shutil.which("mount")) and subprocess.run(mount, capture_output=True).returncode == 0

    @contextmanager
    def full(self, left: int) -> Iterator[None]:
        """Leave room for `left` bytes; without a mounted disk, for as many in each file."""
        if not self.mounted:
            with soft_limit(resource.RLIMIT_FSIZE, left):
                yield
            return
        filler = self.folder / "filler"
        filler.write_bytes(b"\0" * max(0, shutil.disk_usage(self.folder).free - left))
        yield
        filler.unlink()

    @contextmanager
    def read_only(self) -> Iterator[None]:
        if not self.mounted and os.geteuid() == 0:
            pytest.skip("root can write anywhere, and no disk can be mounted")
        self._protect(True)
        yield
        self._protect(False)

    def _protect(self, protected: bool) -> None:
        if self.mounted:
            mode = "remount,ro" if protected else "remount,rw"
            subprocess.run(["mount", "-o", mode, str(self.folder)], check=True)
        else:
            self.folder.chmod(0o500 if protected else 0o700)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = Disk(folder)
    yield disk
    disk.close()


@contextmanager
def soft_limit(kind: int, limit: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def contents(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name not in ("filler", "lock")
    }


def pack_writer(tiny: Path, folder: Path) -> Callable[[int], object]:
    packs = [make_pack(tiny, "sw", seed, WORDS) for seed in range(2)]
    return lambda version: packs[version].save_pretrained(folder / "pack")


def retriever_writer(tiny: Path, folder: Path) -> Callable[[int], object]:
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    retriever.add_language("ha", make_pack(tiny, "ha", 0))

    def write(version: int) -> None:
        if version and "yo" not in retriever.languages:
            retriever.add_language("yo", make_pack(tiny, "yo", 1))
        retriever.save_pretrained(folder / "retriever")

    return write


def vectors_writer(tiny: Path, folder: Path) -> Callable[[int], object]:
    return lambda version: TokenVectors(torch.full((900, 8), version), torch.tensor([900])).save(folder / "vectors")


def text_writer(tiny: Path, folder: Path) -> Callable[[int], object]:
    return lambda version: write_text(folder / "report.md", f"{version}" * 20_000)


def cache_writer(tiny: Path, folder: Path) -> Callable[[int], object]:
    model, processor = OpticalModel.from_pretrained(tiny), OpticalProcessor.from_pretrained(tiny)
    texts = [TEXTS[:4], TEXTS * 2]
    return lambda version: TeacherVectors.prepare(model, processor, texts[version], folder=folder, show_progress=False)


WRITERS = (pack_writer, retriever_writer, vectors_writer, text_writer, cache_writer)


@pytest.mark.promise(
    "Load and resources",
    "When a disk fills up at any byte of a save, the previous files stay intact. The error names the folder and how "
    "to fix it, and the same call succeeds once there is space.",
)
@pytest.mark.promise("Load and resources", "A retriever that could not be saved on a full disk still opens as before.")
@pytest.mark.parametrize("writer", [pack_writer, retriever_writer, vectors_writer, cache_writer])
def test_full_disk_keeps_previous_files(writer, disk, tiny):
    write = writer(tiny, disk.folder)
    write(0)
    before, failures = contents(disk.folder), 0
    for left in range(0, 400_000, 45_056):
        try:
            with disk.full(left):
                write(1)
        except OSError as error:
            (disk.folder / "filler").unlink(missing_ok=True)
            assert any(cure in str(error) for cure in ("free some space", "choose another folder")), error
            assert str(disk.folder) in str(error)
            after = contents(disk.folder)
            assert after == before
            failures += 1
        else:
            break
    assert failures, "the disk was never full"
    write(1)
    assert contents(disk.folder) != before


@pytest.mark.promise("Load and resources", "The error for a write-protected folder names it and suggests another.")
@pytest.mark.parametrize("writer", [pack_writer, cache_writer])
def test_write_protected_folder_is_named(writer, disk, tiny):
    write = writer(tiny, disk.folder)
    write(0)
    before = contents(disk.folder)
    with disk.read_only():
        with pytest.raises(OSError, match=f"cannot write to {disk.folder}.*; choose another folder"):
            write(1)
        assert contents(disk.folder) == before


def weights(trainer: OTDistillationTrainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters() if weight.requires_grad}


def assert_same_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


class At(TrainerCallback):
    """Run an action before a step."""

    def __init__(self, step: int, action: Callable[[], object]):
        self.step, self.action = step, action

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


@pytest.mark.promise(
    "Load and resources",
    "A run stopped by a full disk resumes from its last checkpoint and ends with the same weights, bit for bit.",
)
def test_run_stopped_by_full_disk_resumes_to_same_weights(disk, make_trainer, tmp_path):  # noqa: F811
    options = {"max_steps": 5, "save_strategy": "steps", "save_steps": 2}
    undisturbed = make_trainer(output_dir=str(tmp_path / "undisturbed"), **options)
    undisturbed.train()
    options["output_dir"] = str(disk.folder / "run")
    full = disk.full(220_000)  # in the middle of the optimizer
    with pytest.raises(OSError, match="could not save to .*free some space"):
        make_trainer(callbacks=[At(3, full.__enter__)], **options).train()
    full.__exit__(None, None, None)
    assert last_complete_checkpoint(disk.folder / "run").endswith("checkpoint-2")
    resumed = make_trainer(**options)
    resumed.train(resume_from_checkpoint=checkpoint_to_resume(disk.folder / "run", "last"))
    assert_same_weights(weights(resumed), weights(undisturbed))


@pytest.mark.promise("Load and resources", "A run that cannot write to its output folder fails before the first step.")
def test_unwritable_output_folder_fails_before_first_step(disk, make_trainer):  # noqa: F811
    trainer = make_trainer(max_steps=2, output_dir=str(disk.folder))
    with disk.read_only(), pytest.raises(OSError, match=f"cannot write to {disk.folder} .*choose another folder"):
        trainer.train()
    assert trainer.state.global_step == 0
    trainer.train()  # works once the folder is writable
    assert trainer.state.global_step == 2


class Hungry(OTDistillationTrainer):
    """Run out of memory on more than four pairs, from some step on."""

    hungry_from = 0

    def pair_losses(self, student, teacher):
        if self.model.training and len(student.embeddings) > 4 and self.state.global_step >= self.hungry_from:
            torch.empty(2**50)
        return super().pair_losses(student, teacher)


@pytest.mark.promise(
    "Load and resources",
    "With `auto_find_batch_size`, a batch that does not fit in memory, even in the middle of a run, leads to the same "
    "weights, steps and losses as a run started with the batch size that fits, for one language or several.",
)
@pytest.mark.parametrize(
    ("make", "hungry_from", "given"),
    [
        pytest.param("make_trainer", 0, False, marks=pytest.mark.slow),
        ("make_trainer", 2, True),
        pytest.param("make_two", 2, False, marks=pytest.mark.slow),
    ],
)
def test_auto_find_batch_size_equals_run_with_fitting_size(make, hungry_from, given, request, tmp_path):
    """The weights, steps, losses and languages of the batches agree."""
    make = request.getfixturevalue(make)
    fitting = make(per_device_train_batch_size=4, output_dir=str(tmp_path / "fitting"))
    hungry = make(trainer_class=Hungry, per_device_train_batch_size=6, auto_find_batch_size=True)
    hungry.hungry_from = hungry_from
    for trainer in (fitting, hungry):
        if given:
            trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
            trainer.optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
        trainer.train()
    assert (hungry.state.global_step, hungry.state.max_steps) == (fitting.state.global_step, fitting.state.max_steps)
    losses = [[step["loss"] for step in each.state.log_history if "loss" in step] for each in (hungry, fitting)]
    assert losses[0][-fitting.state.max_steps :] == losses[1]
    assert_same_weights(weights(hungry), weights(fitting))


@pytest.mark.promise("Load and resources", "Training that runs out of memory on a single pair raises an error.")
def test_out_of_memory_on_one_pair_is_an_error(make_trainer):  # noqa: F811
    class Starving(OTDistillationTrainer):
        def pair_losses(self, student, teacher):
            return {"alignment": torch.empty(2**50)}

    with pytest.raises(RuntimeError, match="No executable batch size found"):
        make_trainer(trainer_class=Starving, per_device_train_batch_size=1, auto_find_batch_size=True).train()


@contextmanager
def few_handles(more: int) -> Iterator[None]:
    """Allow `more` file handles in addition to those that are open."""
    taken = {int(name) for name in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{name}")}
    free = sorted(set(range(len(taken) + more + 1)) - taken)
    before = open_files()
    with soft_limit(resource.RLIMIT_NOFILE, free[more]):
        yield
    gc.collect()
    assert open_files() <= before


@pytest.mark.promise(
    "Load and resources",
    "With too few file handles nothing is lost, and the error explains how to allow more.",
)
@pytest.mark.parametrize("writer", [pack_writer, vectors_writer, cache_writer])
def test_too_few_file_handles_keep_previous_files(writer, tiny, tmp_path):
    write = writer(tiny, tmp_path)
    write(0)
    before, messages = contents(tmp_path), []
    for more in range(20):
        try:
            with few_handles(more):
                write(1)
            break
        except OSError as error:
            messages.append(str(error))
            after = contents(tmp_path)
            assert {path: after.get(path) for path in before} == before
    assert contents(tmp_path) != before
    assert messages
    assert all("Too many open files" in message for message in messages), messages
    assert any("allow more open files (ulimit -n)" in each for each in messages)


@pytest.mark.promise(
    "Load and resources",
    "A teacher cache with many shards, many packs and indexes, and 200 evaluations need no more than six file "
    "handles.",
)
def test_teacher_cache_with_many_shards_needs_few_file_handles(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "_SHARD_BYTES", 1)  # a shard a batch
    model, processor = OpticalModel.from_pretrained(tiny), OpticalProcessor.from_pretrained(tiny)
    texts = [text for pair in demo_pairs()[:16] for text in pair.values()]
    with few_handles(6):
        vectors = TeacherVectors.prepare(model, processor, texts, folder=tmp_path, batch_size=1, show_progress=False)
        assert len(vectors.shards) == len(texts) == 32
        again = TeacherVectors.prepare(model, processor, texts, folder=tmp_path, show_progress=False)
        batch = processor.queries(texts)
        assert torch.equal(again(batch), vectors(batch))


def test_many_packs_and_indexes_need_few_file_handles(tiny, tmp_path):
    for number in range(5):
        make_pack(tiny, f"x{number}", number, WORDS).save_pretrained(tmp_path / f"x{number}")
    TokenVectors.from_list([torch.randn(3, 4)]).save(tmp_path / "vectors")
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    with few_handles(6):
        for number in range(5):
            retriever.add_language(f"x{number}", tmp_path / f"x{number}")
        retriever.save_pretrained(tmp_path / "retriever")
        assert len(OpticalRetriever.from_pretrained(tmp_path / "retriever", device="cpu").languages) == 5


@pytest.mark.parametrize("evaluations", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_many_evaluations_need_few_file_handles(tiny, evaluator, evaluations):  # noqa: F811
    model, processor = OpticalModel.from_pretrained(tiny), OpticalProcessor.from_pretrained(tiny)
    with few_handles(6):
        found = [evaluator(model, processor) for _ in range(evaluations)]
    assert all(each == found[0] for each in found)


@pytest.fixture
def jumping_clock(monkeypatch):
    """A clock that jumps years ahead and back from call to call."""
    draw, now = random.Random(0), time.time
    years = 365 * 24 * 3600.0

    def jumping() -> float:
        return now() + draw.choice([-9, -1, 0, 1, 9]) * years

    monkeypatch.setattr(time, "time", jumping)


class Stamp(TrainerCallback):
    """Set modification times of checkpoints that go backwards."""

    def on_save(self, args, state, control, **kwargs):
        at = 2e9 - 1e6 * state.global_step
        os.utime(f"{args.output_dir}/checkpoint-{state.global_step}", (at, at))


@pytest.mark.promise(
    "Load and resources",
    "A clock that jumps by years does not change the weights. The newest checkpoint is the one with the last step, "
    "whatever the modification times of the files.",
)
def test_clock_jumps_do_not_change_training(make_trainer, tmp_path, jumping_clock, monkeypatch):  # noqa: F811
    options = {
        **{"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2, "eval_strategy": "steps"},
        **{"eval_steps": 2, "max_steps": 4, "cache_teacher": True, "teacher_cache_dir": str(tmp_path / "cache")},
    }
    first = make_trainer(callbacks=[Stamp()], **options)
    first.train()
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]
    assert last_complete_checkpoint(tmp_path / "run").endswith("checkpoint-4")
    first.save_model()
    details = LanguagePack.from_pretrained(tmp_path / "run").details
    assert 0 < details["seconds"] < 600
    shutil.rmtree(tmp_path / "run" / "checkpoint-4")
    resumed = make_trainer(**options)
    resumed.train(resume_from_checkpoint=checkpoint_to_resume(tmp_path / "run", "last"))
    assert_same_weights(weights(resumed), weights(first))
    monkeypatch.undo()
    steady = make_trainer(**{**options, "output_dir": str(tmp_path / "steady")})
    steady.train()
    assert_same_weights(weights(steady), weights(first))


@pytest.mark.promise(
    "Load and resources",
    "Opening and closing a pack 300 times leaks no weights, file handles or memory.",
)
@pytest.mark.parametrize("times", [12, pytest.param(300, marks=pytest.mark.slow)])
def test_opening_and_closing_packs_leaks_nothing(tiny, tmp_path, times):
    packs = [make_pack(tiny, "sw", 0, WORDS), make_pack(tiny, "sw", 1)]
    for number, pack in enumerate(packs):
        pack.save_pretrained(tmp_path / str(number))
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    fingerprint, expected = retriever.model.fingerprint(), retriever.encode_queries(TEXTS)

    def turn(count: int) -> Footprint:
        for number in range(count):
            retriever.add_language("sw", tmp_path / str(number % 2))
            retriever.encode_queries(TEXTS[:2], language="sw")
            retriever.remove_language("sw")
        return footprint()

    before = turn(4)
    stretches = [turn(times // 3) for _ in range(3)]
    after = stretches[-1]
    assert after.tensors == before.tensors and after.tensor_bytes == before.tensor_bytes
    assert after.files == before.files
    # A leak grows in every stretch; other tests' threads in the same process may add objects in one.
    counts = [each.objects for each in (before, *stretches)]
    assert min(late - early for early, late in itertools.pairwise(counts)) < times // 3
    assert after.memory - before.memory < 4e6
    assert retriever.model.fingerprint() == fingerprint
    assert_equal(retriever.encode_queries(TEXTS), expected)


def run_steps(make_trainer, steps: int, early: int, evaluator) -> tuple[Footprint, Footprint]:  # noqa: F811
    """Resources held after steps `early` and `steps` of a run that also logs, evaluates and saves."""
    found = []
    trainer = make_trainer(
        max_steps=steps + 1,
        per_device_train_batch_size=2,
        logging_steps=max(1, steps // 50),
        eval_strategy="steps",
        eval_steps=steps // 5,
        retrieval_evaluator=evaluator,
        save_strategy="steps",
        save_steps=steps // 5,
        save_total_limit=1,
        callbacks=[At(step, lambda: found.append(footprint())) for step in (early, steps)],
    )
    trainer.train()
    return tuple(found)


def test_training_does_not_leak_tensors(make_trainer, evaluator):  # noqa: F811
    early, late = run_steps(make_trainer, 20, 8, evaluator)
    assert late.tensors - early.tensors <= 8
    assert late.tensor_bytes - early.tensor_bytes < 1e5
    assert late.files <= early.files


@pytest.mark.promise(
    "Load and resources",
    "Memory, tensors, objects and file handles stay flat from step 2,000 to step 10,000.",
)
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_stays_flat_over_ten_thousand_steps(make_trainer, evaluator):  # noqa: F811
    early, late = run_steps(make_trainer, 10_000, 2000, evaluator)
    assert late.tensors - early.tensors <= 8
    assert late.tensor_bytes - early.tensor_bytes < 1e5
    assert late.files <= early.files
    assert late.objects - early.objects < 20_000
    assert late.memory - early.memory < 10e6


@pytest.mark.promise("Load and resources", "Encoding 10,000 batches leaks no memory.")
@pytest.mark.parametrize("batches", [30, pytest.param(10_000, marks=pytest.mark.slow)])
def test_encoding_leaks_nothing(tiny, batches):
    retriever = OpticalRetriever.from_pretrained(tiny, device="cpu")
    retriever.add_language("sw", make_pack(tiny, "sw", 0, WORDS))
    retriever.set_language("sw")

    def encode(count: int) -> Footprint:
        for number in range(count):
            unseen = f"mzuqo{'abcdefg'[number % 7]}"  # has a nearest known word
            retriever.encode_queries([f"{text} {unseen}" for text in TEXTS[:4]], batch_size=4)
        return footprint()

    before, after = encode(batches // 5), encode(batches)
    assert after.tensors == before.tensors and after.tensor_bytes == before.tensor_bytes
    assert after.files == before.files
    assert after.objects - before.objects < 100
    assert after.memory - before.memory < 4e6
