"""The filter against the story told another way: every plan, detour and leave, enumerated."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextclick.services.simulator.chain import sampler
from nextclick.services.simulator.missions import mission_chain

# Two missions with the same openers in opposite order; item 7 is on no mission.
MISSIONS = ((0, 1, 2, 3, 4), (2, 1, 0, 5, 6))
MIX = ((0.7, 0.3), (0.2, 0.8))
LIKES = tuple(tuple(row) for row in np.random.default_rng(3).dirichlet(np.ones(8), 2))
PERSONAS = (0.4, 0.6)
CHAIN = mission_chain(np.array(MISSIONS), np.array(LIKES), np.array(MIX))

Plan = tuple[int, ...]


def plans(persona: int) -> list[tuple[float, Plan]]:
    """What a session may set out to click, and how probable each plan is."""
    found = []
    for share, (*openers, a, b) in zip(MIX[persona], MISSIONS, strict=True):
        for closers in ((a,), (a, b), (b,), (b, a)):
            found.append((share / 4, (*openers, *closers)))
    return found


@cache
def within(clicks: Plan, plan: Plan, done: int, persona: int, rollover: float) -> float:
    """P(these clicks follow, all in one history | a session stands here in its plan)."""
    click, rest = clicks[0], clicks[1:]
    total = 0.0
    for detour in (False, True):
        p = 0.15 * LIKES[persona][click] if detour else 0.85 * (plan[done] == click)
        if p == 0 or not rest:
            total += p
            continue
        now_done = done if detour else done + 1
        end = 1.0 if now_done == len(plan) else 0.1
        if end < 1:
            total += p * (1 - end) * within(rest, plan, now_done, persona, rollover)
        total += p * end * rollover * begin(rest, persona, rollover)
    return total


@cache
def begin(clicks: Plan, persona: int, rollover: float) -> float:
    """P(these clicks, all in one history | a session begins)."""
    return sum(p * within(clicks, plan, 0, persona, rollover) for p, plan in plans(persona))


def anywhere(clicks: Plan, persona: int, rollover: float) -> float:
    """The same from any click of a session, weighted by how often a session has such a click."""
    total = 0.0
    for p, plan in plans(persona):
        reached = 1.0
        for done in range(len(plan)):
            visits = reached / (1 - 0.15 * 0.9)  # a detour, and the shopper stays: once more here
            total += p * visits * within(clicks, plan, done, persona, rollover)
            reached = visits * 0.85 * 0.9
    return total


def enumerated(history: Plan, rollover: float, full: int) -> list[float]:
    law = anywhere if len(history) >= full else begin
    joint = [
        sum(share * law((*history, item), p, rollover) for p, share in enumerate(PERSONAS))
        for item in range(8)
    ]
    return [j / sum(joint) for j in joint]


@given(
    history=st.lists(st.integers(0, 7), max_size=5).map(tuple),
    rollover=st.sampled_from([0.0, 0.3, 1.0]),
    full=st.sampled_from([3, 10]),
)
def test_the_filter_agrees_with_the_enumeration(history: Plan, rollover: float, full: int) -> None:
    padded = np.array([[0] * (6 - len(history)) + [item + 1 for item in history]])
    got = CHAIN.next_click(np.array(PERSONAS), padded, rollover, full)
    assert got[0] == pytest.approx(enumerated(history, rollover, full), rel=1e-9)


@pytest.mark.parametrize("rollover", [0.0, 1.0])
@pytest.mark.parametrize("full", [5, 10])
def test_a_whole_mission_too(rollover: float, full: int) -> None:
    """The histories that a random draw hardly ever meets, in one batch."""
    histories = [
        (0, 1, 2, 3, 4),
        (2, 1, 0, 5, 6),
        (2, 1, 7, 0, 6),
        (0, 1, 2, 2, 1),
        (1, 2, 3, 0, 1),
    ]
    got = CHAIN.next_click(np.array(PERSONAS), np.array(histories) + 1, rollover, full)
    for row, history in zip(got, histories, strict=True):
        assert row == pytest.approx(enumerated(history, rollover, full), rel=1e-9)


def test_the_enumeration_sums_to_one() -> None:
    """Over all clicks that can follow, and with the end of the session, it sums to 1."""
    for persona in range(2):
        assert sum(begin((i,), persona, 1.0) for i in range(8)) == pytest.approx(1)
        pairs = sum(begin((i, j), persona, 1.0) for i in range(8) for j in range(8))
        assert pairs == pytest.approx(1)


def test_a_batch_larger_than_one_part_is_whole() -> None:
    histories = np.random.default_rng(0).integers(1, 9, (2500, 4))
    together = CHAIN.next_click(np.array(PERSONAS), histories, 1.0, 10)
    assert together.shape == (2500, 8)
    alone = CHAIN.next_click(np.array(PERSONAS), histories[2400:2401], 1.0, 10)
    assert together[2400] == pytest.approx(alone[0])
    assert CHAIN.next_click(np.array(PERSONAS), histories[:0], 1.0, 10).shape == (0, 8)


def test_the_visits_are_stationary() -> None:
    """One session after another: what enters a state is what leaves it."""
    law = CHAIN.visits / CHAIN.visits.sum(axis=1, keepdims=True)
    again = law @ CHAIN.transition + (law @ CHAIN.end)[:, None] * CHAIN.start
    assert again == pytest.approx(law)


def test_a_sampler_draws_its_distribution_and_nothing_impossible() -> None:
    law = np.array(
        [[0.0, 0.3, 0.0, 0.7, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]]
    )
    draw = sampler(law)
    lots = np.random.default_rng(0).random(100_000, np.float32)
    counts = np.bincount(draw(np.zeros(100_000, np.int64), lots), minlength=5)
    assert counts[[0, 2, 4]].tolist() == [0, 0, 0]
    assert counts[1] == pytest.approx(30_000, abs=5 * np.sqrt(21_000))
    edges = np.array([0.0, 0.5, np.nextafter(np.float32(1), np.float32(0))], np.float32)
    for row, column in ((1, 0), (2, 4)):
        assert draw(np.full(3, row), edges).tolist() == [column] * 3
    assert draw(np.zeros(3, np.int64), edges).tolist() == [1, 3, 3]
