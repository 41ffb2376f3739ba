"""A fixed range of histories for each guarantee; `make simulate` goes on from there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.simulation.__main__ import explained, report
from tests.simulation.faults import AT_LEAST_ONCE, AT_TIMES, EXACTLY_ONCE, JOIN
from tests.simulation.history import run
from tests.simulation.mutations import (
    commit_ahead_of_acknowledgement,
    find,
    unassigned_partitions_are_left,
)
from tests.simulation.shrink import shrink

SEEDS = 1000
UNASSIGNED = 275
"""A seed in which a partition stays without an owner if nobody sees to it."""
both = pytest.mark.parametrize("guarantee", [AT_LEAST_ONCE, EXACTLY_ONCE])


@both
def test_nothing_is_violated(guarantee: str) -> None:
    kinds: set[str] = set()
    for seed in range(SEEDS):
        result = run(seed, guarantee)
        if result.violations:
            pytest.fail(explained(result), pytrace=False)
        kinds.update(fault.kind for fault in result.struck)
    assert kinds >= {JOIN, *AT_TIMES}, "every kind of fault has happened"


@both
def test_a_seed_is_a_history(guarantee: str) -> None:
    first = [report(run(seed, guarantee, traced=True)) for seed in range(20)]
    again = [report(run(seed, guarantee, traced=True)) for seed in range(20)]
    assert first == again
    assert len(set(first)) == 20


def test_a_seed_is_the_same_history_in_another_process() -> None:
    """Nothing hangs on the order of a set of texts, or on what ran before."""
    command = [sys.executable, "-m", "tests.simulation", "--seed", "7"]
    told = {
        subprocess.run(
            command, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
    assert "all is well" in told.pop()


def test_a_failure_is_told_and_shrinks() -> None:
    with pytest.MonkeyPatch.context() as patch:
        commit_ahead_of_acknowledgement(patch)
        found = find(AT_LEAST_ONCE, seeds=100)
        assert found is not None
        small = shrink(found.result)
        text = explained(found.result)
        assert small.run().violations
    assert small.clicks <= len(found.result.scenario.clicks)
    assert len(small.only) <= len(found.result.struck)
    assert "VIOLATED: offset" in text
    assert f"python -m tests.simulation {small.arguments}" in text
    assert not small.run().violations, "it was the mutation"


def test_partitions_of_a_static_member_that_is_replaced_while_it_gives_them_up() -> None:
    """Kafka gives the new one what the old one kept, and what it gave up to nobody."""
    with pytest.MonkeyPatch.context() as patch:
        unassigned_partitions_are_left(patch)
        violations = run(UNASSIGNED, AT_LEAST_ONCE).violations
    assert "no owner" in violations[0]
    assert not run(UNASSIGNED, AT_LEAST_ONCE).violations
