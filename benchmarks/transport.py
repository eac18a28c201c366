"""
Compare `OTAlignmentLoss` with POT, geomloss and Dr.DECR's greedy alignment, and measure its share of a training step.

    python benchmarks/transport.py

The costs are those of the first step of a training run: all-MiniLM-L6-v2 encodes both sides of the embedded bitext,
whose sentences are joined to reach a length. For 128 dimensions, the vectors are multiplied by random orthonormal
columns. Every contestant starts with the token vectors and ends with the gradient for the student's vectors.

Other libraries get the settings that suit them best. POT's batched solver runs without a graph, with the faster of its
methods and the fewest iterations that reach our marginal error or 1e-3. Its solvers for single problems are given no
padding, and `ot.sinkhorn` stops at the loosest sufficient tolerance.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ot
import torch
from harness import Measured, arguments, race, ratios, table, write
from ot.batch import solve_batch
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from hf_optical import OpticalModel, OpticalProcessor, OTAlignmentLoss
from hf_optical.losses import GreedyAlignmentLoss
from hf_optical.retrieval.encoding import encode_texts
from hf_optical.transport import transport_plan


try:
    from geomloss import SamplesLoss
except ImportError:
    SamplesLoss = None

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
DATA = Path(__file__).parent.parent / "examples" / "data" / "train.jsonl"
LENGTHS: tuple[int | str, ...] = (16, 32, 64, 128, "mixed")
TOLERANCE = 1e-3
PEERS = (
    "POT solve_batch, sinkhorn",
    "POT solve_batch, log_sinkhorn",
    "POT sinkhorn, loop",
    "POT emd, loop",
    "geomloss",
    "greedy, Dr.DECR",
    "GreedyAlignmentLoss",
)
# The defaults of the trainer, and the default epsilon of the loss without a limit on iterations.
OPTIONS = ({"epsilon": 0.01, "max_iterations": 100}, {"epsilon": 0.05, "max_iterations": 1000})
OURS = "OTAlignmentLoss"

# Student and teacher vectors of shapes (batch, n, dim) and (batch, m, dim), and their masks.
Batch = tuple[Tensor, Tensor, Tensor, Tensor]


def read_texts(count: int, length: int | str) -> list[tuple[str, str]]:
    """A translation and its English, joined from enough sentences for `length` tokens, or from one to six."""
    pairs = [json.loads(line)["translation"] for line in DATA.read_text(encoding="utf-8").splitlines()]
    generator = random.Random(0)
    texts = []
    for _ in range(count):
        sentences = generator.choices(pairs, k=generator.randint(1, 6) if length == "mixed" else math.ceil(length / 4))
        texts.append(tuple(" ".join(pair[code] for pair in sentences) for code in ("sw", "en")))
    return texts


def read_vectors(model: OpticalModel, processor: OpticalProcessor, count: int, length: int | str) -> Batch:
    """Token vectors of `count` pairs with `length` tokens on both sides, or with their natural lengths."""
    sides = []
    for texts in zip(*read_texts(count, length), strict=True):
        vectors = encode_texts(model, processor, texts, "document")
        sides.append([vectors[i] if length == "mixed" else vectors[i][:length] for i in range(count)])
    masks = [pad_sequence([torch.ones(len(each), dtype=torch.bool) for each in side], True) for side in sides]
    return *(pad_sequence(side, True) for side in sides), *masks


def projected(batch: Batch, dim: int) -> Batch:
    student, teacher, *masks = batch
    if dim < student.shape[2]:
        square = torch.randn(student.shape[2], student.shape[2], generator=torch.Generator().manual_seed(0))
        columns = torch.linalg.qr(square)[0][:, :dim]
        student, teacher = student @ columns, teacher @ columns
    return student.requires_grad_(), teacher, *masks


def cosine_cost(batch: Batch) -> Tensor:
    student, teacher, *_ = batch
    return 1 - normalize(student, dim=2) @ normalize(teacher, dim=2).transpose(1, 2)


def uniform(mask: Tensor) -> Tensor:
    return mask / mask.sum(1, keepdim=True)


def marginal_error(plan: Tensor, batch: Batch) -> float:
    """Largest L1 distance in the batch of row and column sums from the uniform weights."""
    plan, rows, columns = plan.detach().double(), uniform(batch[2].double()), uniform(batch[3].double())
    errors = (plan.sum(2) - rows).abs().sum(1) + (plan.sum(1) - columns).abs().sum(1)
    return errors.nan_to_num(math.inf).max().item()


def step(batch: Batch, plan_of: Callable[[Tensor], Tensor]) -> None:
    """Wrap a solver that takes a cost: compute the cost before it and the gradient after it."""
    cost = cosine_cost(batch)
    plan = plan_of(cost.detach())
    _gradient(batch, (plan * cost).sum((1, 2)).mean())


def _gradient(batch: Batch, loss: Tensor) -> Tensor:
    return torch.autograd.grad(loss, batch[0])[0]


# --- POT -------------------------------------------------------------------------------------------------------------


def pot_batch(cost: Tensor, batch: Batch, method: str, dtype: str, epsilon: float, iterations: int) -> Tensor:
    dtype = getattr(torch, dtype)
    rows, columns = (uniform(mask.to(dtype)) for mask in batch[2:])
    options = {"reg": epsilon, "max_iter": iterations, "tol": 0, "method": method, "grad": "detach"}
    return solve_batch(cost.to(dtype), a=rows, b=columns, **options).plan.to(cost)


def fewest_iterations(solve: Callable[[int], Tensor], batch: Batch, error: float, most: int = 4096) -> int | None:
    """Fewest iterations with a marginal error of at most `error` for all problems in the batch."""

    def suffices(iterations: int) -> bool:
        return marginal_error(solve(iterations), batch) <= error

    high = 1
    while not suffices(high):
        high *= 2
        if high > most:
            return None
    low = high // 2  # not sufficient
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high


def pot_batches(batch: Batch, epsilon: float, error: float) -> dict[str, tuple[Callable[[], None], dict[str, Any]]]:
    """POT's batched solver with both methods, in float64 if float32 does not reach the error."""
    cost, found = cosine_cost(batch).detach(), {}
    for method in ("sinkhorn", "log_sinkhorn"):
        for dtype in ("float32", "float64"):
            solve = partial(pot_batch, batch=batch, method=method, dtype=dtype, epsilon=epsilon)
            iterations = fewest_iterations(lambda count, solve=solve: solve(cost, iterations=count), batch, error)
            if iterations is not None:
                solve = partial(solve, iterations=iterations)
                notes = {"method": method, "dtype": dtype, "iterations": iterations}
                notes["error"] = marginal_error(solve(cost), batch)
                found[f"POT solve_batch, {method}"] = partial(step, batch, solve), notes
                break
    return found


def pot_loop(cost: Tensor, batch: Batch, solve: Callable[[list, list, np.ndarray], np.ndarray]) -> Tensor:
    """A solver for single problems, each without padding."""
    plan = np.zeros(cost.shape)
    costs = cost.double().numpy()
    for index, (n, m) in enumerate(zip(batch[2].sum(1).tolist(), batch[3].sum(1).tolist(), strict=True)):
        plan[index, :n, :m] = solve(np.full(n, 1 / n), np.full(m, 1 / m), costs[index, :n, :m])
    return torch.from_numpy(plan).to(cost)


def pot_loops(batch: Batch, epsilon: float, error: float) -> dict[str, tuple[Callable[[], None], dict[str, Any]]]:
    cost = cosine_cost(batch).detach()
    exact = partial(pot_loop, batch=batch, solve=ot.emd)
    found = {"POT emd, loop": (partial(step, batch, exact), {"error": marginal_error(exact(cost), batch)})}
    for tolerance in (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5):
        solve = partial(ot.sinkhorn, reg=epsilon, stopThr=tolerance, numItermax=10_000, warn=False)
        plan_of = partial(pot_loop, batch=batch, solve=solve)
        reached = marginal_error(plan_of(cost), batch)
        if reached <= error:
            found["POT sinkhorn, loop"] = partial(step, batch, plan_of), {"tolerance": tolerance, "error": reached}
            break
    return found


# --- geomloss --------------------------------------------------------------------------------------------------------


def geomloss(batch: Batch, epsilon: float) -> tuple[Callable[[], None], dict[str, Any]]:
    """geomloss with its default annealing. It has no stopping criterion, so any error is accepted."""
    rows, columns = (uniform(mask.float()) for mask in batch[2:])
    options = {
        "loss": "sinkhorn",
        "blur": epsilon**0.5,  # its epsilon is the square
        "cost": lambda x, y: 1 - x @ y.transpose(1, 2),
        "debias": False,
        "backend": "tensorized",
    }
    loss, potentials = SamplesLoss(**options), SamplesLoss(**options, potentials=True)

    def run() -> None:
        vectors = (normalize(side, dim=2) for side in batch[:2])
        _gradient(batch, loss(rows, next(vectors), columns, next(vectors)).mean())

    with torch.no_grad():
        f, g = potentials(rows, normalize(batch[0], dim=2), columns, normalize(batch[1], dim=2))
        exponent = (f.unsqueeze(2) + g.unsqueeze(1) - cosine_cost(batch)) / epsilon
        plan = rows.unsqueeze(2) * columns.unsqueeze(1) * exponent.exp()
    return run, {"error": marginal_error(plan, batch)}


# --- greedy alignment ------------------------------------------------------------------------------------------------


def literal_greedy(batch: Batch) -> None:
    """
    Dr.DECR's alignment as implemented by its authors (arXiv 2112.08185).

    A loop over sentences and tokens in numpy, then the squared distance to the teacher's vectors in the student's
    order.
    """
    student, teacher, *masks = normalize(batch[0], dim=2), normalize(batch[1], dim=2), *batch[2:]
    distances = (1 - student.detach() @ teacher.transpose(1, 2)).numpy()
    goal, aligned = torch.zeros_like(student), torch.zeros_like(masks[0])
    for index, (n, m) in enumerate(zip(*(mask.sum(1).tolist() for mask in masks), strict=True)):
        distance = distances[index, :n, :m]
        for _ in range(min(n, m)):
            rows, columns = np.where(distance == np.amin(distance))
            row, column = rows[0], columns[0]
            distance[row, :] = distance[:, column] = 10
            goal[index, row] = teacher[index, column]
            aligned[index, row] = True
    squares = (student - goal).square().sum(2) * aligned
    _gradient(batch, (squares.sum(1) / aligned.sum(1)).mean())


# --- all of them -----------------------------------------------------------------------------------------------------


def ours(batch: Batch, epsilon: float, max_iterations: int) -> tuple[Callable[[], None], dict[str, Any]]:
    loss = OTAlignmentLoss(epsilon=epsilon, max_iterations=max_iterations, tolerance=TOLERANCE)
    with torch.no_grad():
        _, diagnostics = loss(*batch, return_diagnostics=True)
    tokens = batch[2].sum(1) * batch[3].sum(1)
    notes = {
        "error": diagnostics.marginal_error.max().item(),
        "iterations": diagnostics.iterations.max().item(),
        "product_operations": 4 * tokens.sum().item() * batch[0].shape[2],
        "iteration_operations": 4 * (tokens * diagnostics.iterations).sum().item(),
    }
    return lambda: _gradient(batch, loss(*batch, return_diagnostics=True)[0]), notes


def race_at(batch: Batch, setting: dict[str, Any], rounds: int) -> list[Measured]:
    greedy = GreedyAlignmentLoss()
    contestants = {OURS: ours(batch, setting["epsilon"], setting["max_iterations"])}
    error = max(TOLERANCE, contestants[OURS][1]["error"])
    contestants |= pot_batches(batch, setting["epsilon"], error) | pot_loops(batch, setting["epsilon"], error)
    if SamplesLoss is not None:
        contestants["geomloss"] = geomloss(batch, setting["epsilon"])
    contestants["greedy, Dr.DECR"] = lambda: literal_greedy(batch), {}
    contestants["GreedyAlignmentLoss"] = lambda: _gradient(batch, greedy(*batch)), {}
    measured = race(setting, {name: run for name, (run, _) in contestants.items()}, rounds)
    for entry in measured:
        entry.notes = contestants[entry.name][1]
    return measured


def rates() -> dict[str, float]:
    """Operations per second of matrix products and of cached vector-matrix products, which bound the loss."""
    matrix, vector, batch = torch.rand(512, 512), torch.rand(32, 1, 64), torch.rand(32, 64, 64)
    measured = race({}, {"product": lambda: matrix @ matrix, "iteration": lambda: vector @ batch})
    return {
        entry.name: operations / min(entry.seconds)
        for entry, operations in zip(measured, (2 * 512**3, 2 * 32 * 64 * 64), strict=True)
    }


def floor(ours: Measured, rate: dict[str, float]) -> float:
    """
    Lower bound on the seconds: the arithmetic alone, without padding.

    Costs and gradient are one matrix product each; an iteration is two products of a vector and a matrix.
    """
    return sum(ours.notes[f"{kind}_operations"] / rate[kind] for kind in ("product", "iteration"))


def race_of_a_step(model: OpticalModel, length: int | str, rounds: int) -> list[Measured]:
    """Time the parts of a training step of 32 pairs: teacher forward, student forward and backward, and the loss."""
    translations, english = zip(*read_texts(32, length), strict=True)
    processor = OpticalProcessor.from_pretrained(MINILM, document_length=256 if length == "mixed" else length)
    texts = [processor(list(side), "document") for side in (translations, english)]
    with torch.no_grad():
        student, teacher = (model(**side) for side in texts)
    batch = student.embeddings.requires_grad_(), teacher.embeddings, student.mask, teacher.mask
    loss = OTAlignmentLoss(epsilon=0.01, max_iterations=100, tolerance=TOLERANCE)

    def read_teacher() -> None:
        with torch.no_grad():
            model(**texts[1])

    def read_student() -> None:
        model(**texts[0]).embeddings.backward(torch.ones_like(batch[0]))
        model.zero_grad()

    return race(
        {"part": "step", "length": length, "batch": 32},
        {
            "loss": lambda: _gradient(batch, loss(*batch, return_diagnostics=True)[0]),
            "teacher forward": read_teacher,
            "student forward and backward": read_student,
        },
        rounds,
    )


def race_of_plans(batch: Batch, setting: dict[str, Any], rounds: int, methods: Sequence[Measured]) -> list[Measured]:
    """Time the solvers alone, from a cost to its plan, with POT's settings from the race of the losses."""
    cost, options = cosine_cost(batch).detach(), {name: setting[name] for name in ("epsilon", "max_iterations")}
    contestants = {OURS: lambda: transport_plan(cost, *batch[2:], tolerance=TOLERANCE, **options)}
    for entry in methods:
        if "iterations" in entry.notes and entry.name != OURS:
            given = {name: entry.notes[name] for name in ("method", "dtype", "iterations")}
            contestants[entry.name] = partial(pot_batch, cost, batch, epsilon=setting["epsilon"], **given)
    return race({**setting, "part": "plan"}, contestants, rounds)


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(__doc__, "transport").parse_args(argv)
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", module="ot")
    model = OpticalModel.from_pretrained(MINILM).eval()
    processor = OpticalProcessor.from_pretrained(MINILM, document_length=512)
    lengths, sizes = ((16, "mixed"), (32,)) if args.quick else (LENGTHS, (32, 256))
    rounds = 2 if args.quick else args.rounds
    rate, everything, rows, shares = rates(), [], [], []
    for length in lengths:
        vectors = read_vectors(model, processor, max(sizes), length)
        for dim, size, options in itertools.product((128, model.embedding_dim), sizes, OPTIONS):
            batch = projected(tuple(part[:size] for part in vectors), dim)
            setting = {"part": "loss", "batch": size, "length": length, "dim": dim, **options}
            losses = race_at(batch, setting, rounds)
            plans = race_of_plans(batch, setting, rounds, losses)
            rows.append(row(losses, plans, rate))
            everything += losses + plans
            print(*rows[-1].values(), sep=" | ", flush=True)
        parts = race_of_a_step(model, length, rounds)
        milliseconds = [1e3 * entry.median for entry in parts]
        shares.append([str(length), *milliseconds, 100 * milliseconds[0] / sum(milliseconds)])
        everything += parts
    print(table(list(rows[0]), [list(each.values()) for each in rows]))
    print(table(["Length", *(f"{entry.name}, ms" for entry in parts), "share of the loss, %"], shares))
    write(args.output, everything, operations_per_second=rate)


def row(losses: Sequence[Measured], plans: Sequence[Measured], rate: dict[str, float]) -> dict[str, Any]:
    """Table row of one setting: our time and the speed-up over each peer."""
    ours, times, alone = losses[0], ratios(losses, OURS), ratios(plans, OURS)
    told = {
        "Batch x length, dim, epsilon": "{batch} x {length}, {dim}, {epsilon}".format(**ours.setting),
        "ms": 1e3 * ours.median,
        "times the floor": ours.median / floor(ours, rate),
        "iterations": ours.notes["iterations"],
        "error": ours.notes["error"],
    }
    for name in PEERS:
        told[name] = times.get(name, "-")
    told["plan alone: better of solve_batch"] = min(alone.values(), default="-")
    return told


if __name__ == "__main__":
    main()
