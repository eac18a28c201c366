from __future__ import annotations

from dataclasses import dataclass, fields

from ..checks import check_number


@dataclass(frozen=True)
class Limits:
    """
    What a service accepts. Larger requests are refused before anything is computed.

    Attributes:
        body_bytes (`int`, defaults to 1,000,000): bytes of a request's body.
        questions (`int`, defaults to 64): questions per request.
        characters (`int`, defaults to 2,000): characters per question or filter.
        top_k (`int`, defaults to 100): documents per question.
        batch (`int`, defaults to 64): questions that are encoded and searched together.
        waiting (`int`, defaults to 1,024): questions that wait for their turn; further requests get status 503.
    """

    body_bytes: int = 1_000_000
    questions: int = 64
    characters: int = 2_000
    top_k: int = 100
    batch: int = 64
    waiting: int = 1_024

    def __post_init__(self):
        for each in fields(self):
            check_number(each.name, getattr(self, each.name), at_least=1)
        check_number("waiting", self.waiting, at_least=self.questions, cure="a full request would never fit")
