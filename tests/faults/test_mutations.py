"""Tests of the tests: with a promise broken on purpose, the oracle must see it."""

from __future__ import annotations

import functools

import pytest

from tests.faults.conftest import MakeStand
from tests.faults.oracle import Verdict
from tests.faults.stand import Stand
from tests.faults.tampering import (
    append_twice,
    commit_before_acknowledged,
    crash_at,
    die_between_two_commits,
    no_fence,
    one_after_the_other,
)
from tests.integration.traffic import make_clicks

pytestmark = pytest.mark.long


def replayed_after_a_crash(ours: Stand, *tamper: object) -> Verdict:
    """The batch that was appended is read once more."""
    ours.send(make_clicks(600, users=10, seed=1))
    mutations = [t for t in tamper if callable(t)]
    dying = ours.worker(prepare=one_after_the_other(*mutations, crash_at("appended", 4)))
    dying.join(90)
    assert dying.exitcode == -9
    ours.worker(prepare=one_after_the_other(*mutations))
    ours.wait_for_all()
    return ours.verdict()


def test_the_idempotent_append_is_needed(stand: MakeStand) -> None:
    assert replayed_after_a_crash(stand()).exact


def test_without_the_idempotent_append_histories_are_wrong(stand: MakeStand) -> None:
    assert replayed_after_a_crash(stand(), append_twice, no_fence).wrong_histories > 0


def test_without_the_fence_lost_offsets_make_wrong_histories(stand: MakeStand) -> None:
    """The counterpart of test_kafka.test_offsets_lost."""
    ours = stand()
    ours.send(make_clicks(1000, users=5, seed=2))
    worker = ours.worker()
    ours.wait_for_all()
    worker.terminate()
    worker.join(90)
    other = f"{ours.group}-2"
    ours.follow(other)
    ours.worker(prepare=no_fence, NEXTCLICK_WORKER__GROUP_ID=other)
    ours.wait_for_all()
    assert ours.verdict().wrong_histories > 0


def test_without_the_wait_for_acknowledgements_answers_are_lost(stand: MakeStand) -> None:
    """A batch lingers in the client when its offsets are committed, and then the worker dies."""
    ours = stand()
    ours.environ["NEXTCLICK_KAFKA__CLIENT_CONFIG"] = '{"linger.ms": 3000}'
    ours.send(make_clicks(600, seed=3))
    dying = ours.worker(
        prepare=one_after_the_other(commit_before_acknowledged, crash_at("committed", 1))
    )
    dying.join(90)
    assert dying.exitcode == -9
    ours.worker()
    ours.wait_for_all()
    assert ours.verdict().lost > 0


def test_offsets_outside_the_transaction_make_doubles(stand: MakeStand) -> None:
    ours = stand("exactly_once")
    ours.send(make_clicks(600, seed=4))
    dying = ours.worker(prepare=functools.partial(die_between_two_commits, 4))
    dying.join(90)
    assert dying.exitcode == -9
    ours.worker()
    ours.wait_for_all()
    assert ours.verdict().doubled > 0
