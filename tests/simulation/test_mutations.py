"""Tests of the simulation: with a promise broken on purpose, it must find a violation."""

from __future__ import annotations

import pytest

from tests.simulation.mutations import MUTATIONS, SEEDS, Mutation, find

RARE = {
    "a late commit ends the worker",
    "rewinds to what is remembered",
    "answers from revoked partitions",
    "unassigned partitions are left",
    "replay depth too small",
    "reads on from the client's position",
    "takes commits of a former topic",
    "a swap within a batch, or a delta",
    "a delta is named before it serves",
    "a delta is named before it is there",
}
"""Found after more than a second or two."""
CASES = [pytest.param(m, id=m.name, marks=[pytest.mark.long] * (m.name in RARE)) for m in MUTATIONS]


@pytest.mark.parametrize("mutation", CASES)
def test_it_is_found(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation.break_it(monkeypatch)
    found = find(mutation.guarantee, SEEDS, mutation.adapt)
    assert found is not None
    print(f"{mutation.name}: seed {found.seeds - 1}, {found.seconds:.1f} s")
