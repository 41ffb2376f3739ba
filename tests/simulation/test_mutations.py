"""Tests of the simulation: with a promise broken on purpose, it must find a violation."""

from __future__ import annotations

import pytest

from tests.simulation.mutations import MUTATIONS, SEEDS, Mutation, find


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_it_is_found(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation.break_it(monkeypatch)
    found = find(mutation.guarantee, SEEDS, mutation.adapt)
    assert found is not None
    print(f"{mutation.name}: seed {found.seeds - 1}, {found.seconds:.1f} s")
