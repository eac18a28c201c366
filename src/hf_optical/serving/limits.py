from __future__ import annotations

from dataclasses import dataclass, fields

from ..checks import check_number


@dataclass(frozen=True)
class Limits:
    """
    What a service accepts. Larger requests are refused before anything is computed.

    Attributes:
        max_bytes (`int`, defaults to 1,000,000): bytes of a request's body.
        max_questions (`int`, defaults to 64): questions per request.
        max_characters (`int`, defaults to 2,000): characters per question or filter.
        max_top_k (`int`, defaults to 100): documents per question.
        batch_size (`int`, defaults to 64): questions that are encoded and searched together.
        max_waiting (`int`, defaults to 1,024): questions that wait for their turn; further requests get status 503.
    """

    max_bytes: int = 1_000_000
    max_questions: int = 64
    max_characters: int = 2_000
    max_top_k: int = 100
    batch_size: int = 64
    max_waiting: int = 1_024

    def __post_init__(self):
        for each in fields(self):
            check_number(each.name, getattr(self, each.name), at_least=1)
        check_number("max_waiting", self.max_waiting, at_least=self.max_questions, cure="or a full request never fits")
