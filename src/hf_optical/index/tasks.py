"""Run independent tasks in processes of this machine or on a Ray cluster, and again where a process or node dies."""

from __future__ import annotations

import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch

from ..checks import check_number, import_optional
from ..errors import error_summary


class TaskFailure(Exception):
    """The last error of a task that failed at every attempt."""


class Pool(Protocol):
    """Something that runs tasks, until it is closed."""

    def run(
        self, task: Callable, shared: Any, arguments: Sequence[Any], *, gpu: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """
        Call `task(shared, argument)` for all arguments.

        Args:
            task (`Callable`): A function at the top of a module.
            shared: First argument of all calls, sent once to a cluster.
            arguments (sequence): Second argument of each call.
            gpu (`bool`, defaults to `False`): Whether each call needs a GPU, if a cluster has any.

        Returns:
            Iterator of `(position in arguments, result)` in the order of completion. The result is a [`TaskFailure`]
            if all attempts failed.
        """

    def close(self) -> None:
        """Stop all tasks."""


@dataclass(frozen=True)
class Workers:
    """
    Where tasks run.

    Args:
        ray (`str`, *optional*):
            Address of a Ray cluster, as in `ray.init`: `"auto"` for the one that this machine belongs to. By default
            tasks run on this machine without Ray.
        processes (`int`, *optional*):
            Number of processes without Ray. Defaults to the number of GPUs or else of CPU cores. With 1, tasks run in
            this process. With more, a script needs the usual `if __name__ == "__main__":`.
        attempts (`int`, defaults to 3): How often a task may fail, or be lost with its process or node.

    Raises:
        ValueError: If `processes` or `attempts` is below 1, or `processes` is given with `ray`.
    """

    ray: str | None = None
    processes: int | None = None
    attempts: int = 3

    def __post_init__(self):
        check_number("attempts", self.attempts, at_least=1)
        if self.processes is not None:
            check_number("processes", self.processes, at_least=1)
            if self.ray:
                raise ValueError("processes is for one machine; on a cluster Ray decides, so leave out one of the two")

    def pool(self) -> Pool:
        """Start running tasks."""
        if self.ray:
            return _RayCluster(self.ray, self.attempts)
        processes = self.processes or torch.cuda.device_count() or _cores()
        return _ThisProcess(self.attempts) if processes == 1 else _Processes(processes, self.attempts)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _attempt(call: Callable[[], Any], attempts: int) -> Any:
    for _ in range(attempts):
        try:
            return call()
        except Exception as error:
            failure = error
    return TaskFailure(error_summary(failure))


class _ThisProcess:
    def __init__(self, attempts: int):
        self.attempts = attempts

    def run(
        self, task: Callable, shared: Any, arguments: Sequence[Any], *, gpu: bool = False
    ) -> Iterator[tuple[int, Any]]:
        for position, argument in enumerate(arguments):
            yield position, _attempt(partial(task, shared, argument), self.attempts)

    def close(self) -> None:
        pass


class _Processes:
    """Each process has a thread here that hands it one task at a time and replaces it if it dies."""

    def __init__(self, processes: int, attempts: int):
        self.attempts = attempts
        self.workers = [_Process(number, processes) for number in range(processes)]

    def run(
        self, task: Callable, shared: Any, arguments: Sequence[Any], *, gpu: bool = False
    ) -> Iterator[tuple[int, Any]]:
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        finished: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        for position in range(len(arguments)):
            waiting.put(position)

        def serve(worker: _Process) -> None:
            while not worker.stopped:
                try:
                    position = waiting.get_nowait()
                except queue.Empty:
                    return
                call = partial(worker, task, shared, arguments[position])
                finished.put((position, _attempt(call, self.attempts)))

        for worker in self.workers[: len(arguments)]:
            threading.Thread(target=serve, args=(worker,), daemon=True).start()
        for _ in arguments:
            yield finished.get()

    def close(self) -> None:
        for worker in self.workers:
            worker.stop()


class _Process:
    """A process that runs tasks, started when it is first needed and again after it has died."""

    def __init__(self, number: int, processes: int):
        self.settings = (number, processes)
        self.stopped = False
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def __call__(self, *call: Any) -> Any:
        if self.stopped:
            raise RuntimeError("the run was stopped")
        if self._connection is None:
            context = multiprocessing.get_context("spawn")
            self._connection, theirs = context.Pipe()
            self._process = context.Process(target=_serve, args=(theirs, *self.settings), daemon=True)
            self._process.start()
            theirs.close()
        try:
            self._connection.send(call)
            result = self._connection.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError(
                f"its process ended with exit code {self._end()}; -9 means that it was killed, usually for lack of "
                "memory"
            ) from error
        if isinstance(result, Exception):
            raise result
        return result

    def stop(self) -> None:
        self.stopped = True
        if process := self._process:
            process.kill()

    def _end(self) -> int | None:
        connection, process = self._connection, self._process
        self._connection = self._process = None
        assert connection is not None and process is not None
        connection.close()
        process.join(10)
        return process.exitcode


def _serve(connection: Connection, number: int, processes: int) -> None:
    """Run the tasks that come through a connection until it is closed."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if torch.cuda.device_count():
        torch.cuda.set_device(number % torch.cuda.device_count())
    else:
        torch.set_num_threads(max(1, _cores() // processes))
    while True:
        try:
            task, *arguments = connection.recv()
        except EOFError:
            return
        try:
            result = task(*arguments)
        except Exception as error:
            # Not every error can be sent to another process.
            result = RuntimeError(error_summary(error))
        connection.send(result)


def _end_with_parent() -> None:
    """End this process if its parent was killed, which closes no connection in the middle of a task."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _RayCluster:
    """Ray schedules the tasks, and runs them again when they fail or their node dies."""

    def __init__(self, address: str, attempts: int):
        self.ray = import_optional("ray", "ray")
        # The progress bar stays readable without what workers print.
        self.ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
        self.options = {"num_cpus": 1, "max_retries": attempts - 1, "retry_exceptions": True}
        self._pending: dict[Any, int] = {}

    def run(
        self, task: Callable, shared: Any, arguments: Sequence[Any], *, gpu: bool = False
    ) -> Iterator[tuple[int, Any]]:
        errors = self.ray.exceptions
        gpus = 1 if gpu and self.ray.cluster_resources().get("GPU") else 0
        remote = self.ray.remote(scheduling_strategy="SPREAD", num_gpus=gpus, **self.options)(task)
        reference = self.ray.put(shared)
        self._pending = {remote.remote(reference, argument): number for number, argument in enumerate(arguments)}
        while self._pending:
            (done,), _ = self.ray.wait(list(self._pending), num_returns=1)
            position = self._pending.pop(done)
            try:
                yield position, self.ray.get(done)
            except errors.RayTaskError as error:
                yield position, TaskFailure(error_summary(error.cause))
            except errors.RayError as error:
                yield position, TaskFailure(error_summary(error))

    def close(self) -> None:
        for each in self._pending:
            self.ray.cancel(each, force=True)
