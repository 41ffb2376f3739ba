"""Trace contexts of clicks, handed on to their answers; otel_traces.py makes spans of them, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nextclick.shared.messages import Headers, Message, trace_context


class BatchTraces(Protocol):
    """The traces of a batch's answers, in the order of the answers."""

    headers: Sequence[Headers]
    """The headers of each answer."""

    def acknowledged(self, at: float) -> None:
        """The answers can be read, since `at` (epoch seconds)."""
        ...

    def committed(self, at: float) -> None:
        """The offsets are committed, since `at` (epoch seconds)."""
        ...

    def exemplar(self, answer: int) -> dict[str, str] | None:
        """Labels that lead from a latency to its trace; None if the answer has no span."""
        ...


TraceBatch = Callable[[Sequence[Message], Mapping[str, float]], BatchTraces]
"""Makes them, from the messages of the answered clicks and the time (epoch seconds) of each step
that is done: polled, decoded, appended, scored."""


@dataclass
class Forwarded:
    """Trace contexts are handed on as they are: this process takes no part in the traces."""

    headers: Sequence[Headers] = field(default_factory=list)

    def acknowledged(self, at: float) -> None:
        """Do nothing."""

    def committed(self, at: float) -> None:
        """Do nothing."""

    def exemplar(self, answer: int) -> None:
        """There is none."""


def forward(messages: Sequence[Message], done_at: Mapping[str, float]) -> Forwarded:
    """Hand on the trace contexts of clicks; a TraceBatch."""
    return Forwarded([trace_context(message.headers) for message in messages])
