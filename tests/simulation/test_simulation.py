"""A fixed range of histories for each guarantee; `make simulate` goes on from there."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from pandas.testing import assert_frame_equal

from nextclick.trainer.collect import EventLog, Row
from tests.simulation.__main__ import explained, report
from tests.simulation.event_log import Disk, MemoryEventLog
from tests.simulation.faults import AT_LEAST_ONCE, AT_TIMES, DELTAS, JOIN, REGISTRY_DOWN, SUBJECTS
from tests.simulation.history import run
from tests.simulation.mutations import (
    commit_ahead_of_acknowledgement,
    find,
    unassigned_partitions_are_left,
)
from tests.simulation.shrink import shrink

SEEDS = {subject: range(200) for subject in SUBJECTS} | {DELTAS: range(10)}
"""Models of torch are loaded in histories with deltas, which takes ten times as long."""
MORE_SEEDS = {subject: range(200, 800) for subject in SUBJECTS} | {DELTAS: range(10, 100)}
UNASSIGNED = 101
"""A seed in which a partition stays without an owner if nobody sees to it."""
each = pytest.mark.parametrize("guarantee", SUBJECTS)


@each
@pytest.mark.parametrize("seeds", [SEEDS, pytest.param(MORE_SEEDS, marks=pytest.mark.long)])
def test_nothing_is_violated(guarantee: str, seeds: Mapping[str, range]) -> None:
    kinds: set[str] = set()
    for seed in seeds[guarantee]:
        result = run(seed, guarantee)
        if result.violations:
            pytest.fail(explained(result), pytrace=False)
        kinds.update(fault.kind for fault in result.struck)
    expected = {JOIN, *AT_TIMES} | ({REGISTRY_DOWN} if guarantee == DELTAS else set())
    if len(seeds[guarantee]) > 100:
        assert kinds >= expected, "every kind of fault has happened"


@each
def test_a_seed_is_a_history(guarantee: str) -> None:
    seeds = SEEDS[guarantee][:: len(SEEDS[guarantee]) // 5]
    first = [report(run(seed, guarantee, traced=True)) for seed in seeds]
    again = [report(run(seed, guarantee, traced=True)) for seed in seeds]
    assert first == again
    assert len(set(first)) == 5


def test_a_seed_is_the_same_history_in_another_process() -> None:
    """Nothing hangs on the order of a set of texts, or on what ran before."""
    told = report(run(7, AT_LEAST_ONCE, traced=True))
    other_seed = "1" if os.environ.get("PYTHONHASHSEED") == "2" else "2"
    again = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seed", "7", "--guarantee", AT_LEAST_ONCE],
        env={**os.environ, "PYTHONHASHSEED": other_seed},
        capture_output=True,
        text=True,
    )
    assert again.stdout == f"{told}\n"
    assert "all is well" in told


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


def test_the_event_log_in_memory_is_like_the_real_one(tmp_path: Path) -> None:
    """Also when a trainer begins anew, and when topics and offsets come in a strange order."""
    rng, disk = random.Random(1), Disk()
    real, simulated = EventLog(str(tmp_path)), MemoryEventLog(disk)
    for number in range(60):
        if rng.random() < 0.1:
            real, simulated = EventLog(str(tmp_path)), MemoryEventLog(disk)
        if rng.random() < 0.3:
            real.topic_id = simulated.topic_id = rng.choice(("", "a", "b", "c"))
        rows, ends = [], {}
        for partition in rng.sample((0, 1), rng.randint(1, 2)):
            first, count = rng.randrange(20), rng.randrange(1, 8)
            ends[partition] = first + count + rng.randrange(2)
            rows += [
                Row(f"{number} {partition} {n}", "u", "i", n, "click", number, partition, n)
                for n in range(first, first + count)
            ]
        assert real.append(rows, ends) == simulated.append(rows, ends)
        assert real.next_offsets((0, 1, 2)) == simulated.next_offsets((0, 1, 2))
    assert real.state()[1:] == simulated.state()[1:]
    for newest in (None, 7):
        assert_frame_equal(real.read(newest), simulated.read(newest))
    assert real.tombstones() == simulated.tombstones()
    in_order = sorted(
        (row for _, row in disk.rows),
        key=lambda row: (row.arrival, row.kafka_partition, row.kafka_offset),
    )
    assert real.read()["event_id"].tolist() == [row.event_id for row in in_order]
