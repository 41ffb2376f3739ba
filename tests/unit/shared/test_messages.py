from __future__ import annotations

import pytest

from nextclick.shared.messages import trace_context

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_the_trace_context_is_taken_from_among_other_headers() -> None:
    read = (("x", b"1"), ("tracestate", b"a=b"), ("traceparent", PARENT))
    assert trace_context(read) == (("traceparent", PARENT), ("tracestate", b"a=b"))


@pytest.mark.parametrize(
    "parent",
    [
        None,
        b"",
        PARENT.upper(),
        b"ff" + PARENT[2:],
        PARENT + b"-more",
        PARENT.replace(b"4bf92f3577b34da6a3ce929d0e0e4736", b"0" * 32),
        PARENT.replace(b"00f067aa0ba902b7", b"0" * 16),
        b"\xff" * 55,
        b"0" * 1_000_000,
    ],
)
def test_a_traceparent_that_is_none_is_not_handed_on(parent: bytes | None) -> None:
    assert trace_context((("traceparent", parent), ("tracestate", b"a=b"))) == ()


@pytest.mark.parametrize("state", [None, b"", b"a=\xff", b"a" * 513])
def test_a_tracestate_that_is_missing_or_too_long_is_left_out(state: bytes | None) -> None:
    read = (("traceparent", PARENT), ("tracestate", state))
    assert trace_context(read) == (("traceparent", PARENT),)
