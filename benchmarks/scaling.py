"""
Training speed on the CPU with one and several processes of Accelerate, in pairs per second.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py

The run is the default one of `training.py`: all-MiniLM-L6-v2 learns from itself in batches of 32, which the processes
share. Each process has `--threads` threads. The contestants take turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import torch
from harness import Measured, arguments, ratios, table, write
from training import BATCH, DATA, WARM_UP, read_pairs, run_ours


def work(steps: int, threads: int) -> None:
    """Run one of the processes; the first prints the seconds of each step in its last line."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        # By default, each process has as many pairs per step as a single one.
        settings = {"accelerator_config": {"split_batches": True}, "use_cpu": True}
        clock = run_ours(settings, read_pairs(str(DATA), folder), steps, folder)
    if os.environ["RANK"] == "0":
        print(clock.seconds, flush=True)


def measure(processes: int, steps: int, threads: int) -> float:
    """Seconds of each step with a number of processes."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    worker = [__file__, "--worker", "--steps", str(steps), "--threads", str(threads)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": str(threads)}
    output = subprocess.run(
        [sys.executable, *launch, *worker], env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    return json.loads(output.strip().splitlines()[-1])


def main() -> None:
    parser = arguments(__doc__, "scaling")
    parser.add_argument("--steps", type=int, default=40, help="Number of updates of a run.")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="Numbers of processes.")
    parser.add_argument("--worker", action="store_true", help="Internal: run one of the processes.")
    args = parser.parse_args()
    if args.worker:
        return work(args.steps, args.threads)

    steps, rounds = (WARM_UP + 2, 1) if args.quick else (args.steps, args.rounds)
    numbers = list(dict.fromkeys([1, *args.processes]))
    if any(BATCH % number for number in numbers):
        parser.error(f"--processes must divide the batch of {BATCH} evenly")
    seconds: dict[int, list[float]] = {number: [] for number in numbers}
    for _ in range(rounds):
        for number in numbers:
            seconds[number].append(measure(number, steps, args.threads))
    setting = {"batch": BATCH, "steps": steps}
    measured = [Measured(setting, str(number), seconds[number]) for number in numbers]
    rows = []
    for entry in measured:
        faster = 1.0 if entry.name == "1" else ratios(measured, entry.name)["1"]
        rows.append([entry.name, BATCH / entry.median, faster])
    print(table(["processes", "pairs per second", "speed-up over one process"], rows))
    write(args.output, measured)


if __name__ == "__main__":
    main()
