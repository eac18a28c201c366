from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, PlatformCollector, ProcessCollector


_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """What `/metrics` shows, in a registry of its own, so that a process may hold several services."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.requests = Counter(
            "hf_optical_requests", "Requests by path and status", ["path", "status"], registry=self.registry
        )
        self.request_seconds = Histogram(
            "hf_optical_request_seconds",
            "Time from the first byte of a request to the last of its answer",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.questions = Counter(
            "hf_optical_questions", "Questions encoded, by language", ["language"], registry=self.registry
        )
        self.batch_questions = Histogram(
            "hf_optical_batch_questions",
            "Questions that were encoded and searched together",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )
        self.stage_seconds = Histogram(
            "hf_optical_stage_seconds",
            "Time of a batch in a stage, encode or search",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.waiting = Gauge("hf_optical_waiting_questions", "Questions that wait for a batch", registry=self.registry)
        self.packs = Gauge("hf_optical_open_packs", "Open language packs", registry=self.registry)
