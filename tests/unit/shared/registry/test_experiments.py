"""Live experiments in a real registry, and a slot that takes part in them."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nextclick.shared.errors import CheckpointError, ConfigurationError, Unavailable
from nextclick.shared.experiments import Experiment
from nextclick.shared.model import Checkpoint, Scorer
from nextclick.shared.registry import ModelSlot, Pointer, Registry
from nextclick.shared.runtime import metrics
from tests.unit.builders import CPU, checkpoint
from tests.unit.shared.registry.test_deltas import delta_of

THEN = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path / "registry"))


@pytest.fixture
def versions(registry: Registry) -> tuple[str, str]:
    """The second one is current."""
    b, a = (registry.publish(checkpoint(seed=i)) for i in (1, 2))
    return a, b


def pointer_of(registry: Registry) -> Pointer:
    pointer = registry.pointer()
    assert pointer is not None
    return pointer


def slot_of(registry: Registry, *, arms: bool = True, deltas: bool = False) -> ModelSlot:
    return ModelSlot(registry, lambda c: Scorer(c, CPU, 5), 0.01, deltas=deltas, arms=arms)


def held(slot: ModelSlot) -> tuple[str, str | None]:
    """What a slot serves after a look, and its second arm."""
    slot.check()
    assert slot.model is not None
    return slot.model.name, slot.arms.b.name if slot.arms else None


@pytest.mark.parametrize("kind", ["folder", "memory"])
def test_an_experiment_is_kept_beside_the_pointer_until_it_is_stopped(
    kind: str, tmp_path: Path
) -> None:
    url = str(tmp_path) if kind == "folder" else f"memory://{uuid.uuid4().hex}"
    registry = Registry(url)
    b, a = (registry.publish(checkpoint(seed=i)) for i in (1, 2))
    before = pointer_of(registry)
    started = registry.start_experiment("e1", "current", b, 0.2, THEN)
    assert (started.a, started.b, started.share, started.started_at) == (a, b, 0.2, THEN)
    assert pointer_of(registry).running == started
    assert (pointer_of(registry).version, pointer_of(registry).history) == (a, before.history)
    later = registry.publish(checkpoint(seed=3))
    assert pointer_of(registry).running == started, "a retraining does not end it"
    stopped = registry.stop_experiment(now=THEN + timedelta(days=1))
    assert stopped.version == later
    assert pointer_of(registry) == stopped
    assert stopped.running is None
    (ended,) = stopped.experiments
    assert (ended.ended_at, ended.outcome) == (THEN + timedelta(days=1), "stopped")
    other = registry.start_experiment("e2", a, "current", 0.5)
    assert (other.a, other.b) == (a, later)
    assert other.salt != started.salt


def test_without_experiments_the_pointer_has_no_field_for_them(
    registry: Registry, versions: tuple[str, str], tmp_path: Path
) -> None:
    content = json.loads((tmp_path / "registry" / "current.json").read_text())
    assert content.keys() == {"version", "history", "rollbacks", "changed_at"}


@pytest.mark.parametrize(("arm", "place"), [("b", 1), ("a", 0)])
def test_stopping_promotes_an_arm_in_the_same_step(
    registry: Registry, versions: tuple[str, str], arm: str, place: int
) -> None:
    registry.start_experiment("e", "current", versions[1], 0.2)
    registry.publish(checkpoint(seed=3))
    pointer = registry.stop_experiment(promote=arm)
    assert pointer.version == versions[place]
    assert pointer.experiments[-1].outcome == f"promoted {arm}"


def test_a_version_that_waits_is_tried_and_kept(registry: Registry) -> None:
    """Also when the next one waits in its place."""
    days = [datetime(2020, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4)]
    a = registry.publish(checkpoint(seed=1), days[0])
    b = registry.publish(checkpoint(seed=2), days[1], promote=False)
    slot = slot_of(registry)
    assert held(slot) == (a, None)
    registry.start_experiment("e", "current", b, 0.5)
    assert held(slot) == (a, b)
    replaced, waits = (registry.publish(checkpoint(seed=3), d, promote=False) for d in days[2:])
    assert registry.prune(1, 0) == [replaced]
    assert held(slot) == (a, b)
    assert registry.stop_experiment("b") == pointer_of(registry)
    assert (pointer_of(registry).version, pointer_of(registry).waiting) == (b, waits)
    assert held(slot) == (b, None)


def test_what_cannot_be_tried_changes_nothing(
    registry: Registry, versions: tuple[str, str]
) -> None:
    b = versions[1]
    with pytest.raises(ConfigurationError, match="no experiment is running"):
        registry.stop_experiment()
    registry.start_experiment("first", "current", b, 0.2)
    registry.stop_experiment()
    before = pointer_of(registry)
    for name, version, error, line in (
        ("e", "gone", CheckpointError, "version gone is not in the registry"),
        ("e", "../x", CheckpointError, "is not a version name"),
        ("e", f"{b}+7", CheckpointError, "is a delta; try its base"),
        ("no name", b, ConfigurationError, "cannot name an experiment"),
        ("first", b, ConfigurationError, "there was an experiment first already"),
    ):
        with pytest.raises(error, match=line):
            registry.start_experiment(name, "current", version, 0.2)
        assert pointer_of(registry) == before
    registry.start_experiment("second", "current", b, 0.2)
    before = pointer_of(registry)
    with pytest.raises(ConfigurationError, match="experiment second is running, on all users"):
        registry.start_experiment("third", "current", b, 0.2)
    assert pointer_of(registry) == before


def test_an_empty_registry_has_nothing_to_try(registry: Registry) -> None:
    registry.check_writable()
    with pytest.raises(CheckpointError, match="has no model yet"):
        registry.start_experiment("e", "current", "current", 0.2)


def test_a_version_that_an_experiment_tries_is_not_pruned(registry: Registry) -> None:
    made = [
        registry.publish(checkpoint(seed=i), datetime(2020, 1, i, tzinfo=UTC)) for i in range(1, 6)
    ]
    registry.start_experiment("e", "current", made[1], 0.2)
    assert registry.prune(1, 1.0) == [made[0], made[2]]
    assert registry.versions() == [made[1], *made[3:]]


@pytest.mark.parametrize("removes", [True, False])
def test_it_ends_with_one_of_its_versions(
    registry: Registry, versions: tuple[str, str], removes: bool
) -> None:
    """A user was forgotten, whom version b may know; or the guard finds version a worse."""
    a, b = versions
    registry.start_experiment("e", "current", b, 0.2)
    if removes:
        registry.remove([b])
        assert registry.versions() == [a]
    else:
        registry.rollback(only_if=a, reason="by the guard, worse")
    (ended,) = pointer_of(registry).experiments
    assert ended.ended_at is not None
    assert ended.outcome == (
        f"version {b} was removed"
        if removes
        else f"version {a} was rolled back: by the guard, worse"
    )


def test_a_slot_holds_both_arms_while_it_runs(
    registry: Registry, versions: tuple[str, str]
) -> None:
    a, b = versions
    slot, other = slot_of(registry), slot_of(registry, arms=False)
    assert held(slot) == (a, None)
    registry.start_experiment("e", "current", b, 0.2)
    assert held(slot) == (a, b)
    assert metrics.EXPERIMENT_RUNNING._value.get() == 1
    assert held(other) == (a, None)
    slot.check_arms()
    first = slot.arms
    later = registry.publish(checkpoint(seed=3))
    assert held(slot) == (a, b), "what is published waits"
    assert slot.arms is first
    assert held(slot_of(registry)) == (a, b), "a worker that starts now does the same"
    registry.stop_experiment()
    assert held(slot) == (later, None)
    assert slot.model is not None
    assert slot.model.on_trial
    assert metrics.EXPERIMENT_RUNNING._value.get() == 0


def test_a_promoted_arm_is_not_loaded_again(registry: Registry, versions: tuple[str, str]) -> None:
    slot = slot_of(registry)
    registry.start_experiment("e", "current", versions[1], 0.2)
    slot.check()
    assert slot.arms is not None
    scorer = slot.arms.b.scorer
    registry.stop_experiment(promote="b")
    assert held(slot) == (versions[1], None)
    assert slot.model is not None
    assert slot.model.scorer is scorer
    assert not slot.model.on_trial


def test_both_arms_may_be_one_version(registry: Registry, versions: tuple[str, str]) -> None:
    slot = slot_of(registry)
    registry.start_experiment("aa", "current", "current", 0.5)
    assert held(slot) == (versions[0], versions[0])
    assert slot.arms is not None
    assert slot.arms.b is slot.model, "it is in memory once"


def test_an_experiment_is_without_deltas(registry: Registry, versions: tuple[str, str]) -> None:
    a, b = versions
    registry.publish_delta(delta_of(registry, a))
    slot = slot_of(registry, deltas=True)
    assert held(slot)[0] == a
    assert held(slot)[0] == f"{a}+7"
    registry.start_experiment("e", "current", b, 0.2)
    assert held(slot) == (a, b)
    assert held(slot) == (a, b)
    registry.stop_experiment()
    slot.check()
    assert held(slot) == (f"{a}+7", None)


def test_an_arm_that_cannot_serve_is_said_and_tried_once(
    registry: Registry, versions: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    a, b = versions
    made: list[Checkpoint] = []

    def make(of: Checkpoint) -> Scorer:
        made.append(of)
        return Scorer(of, CPU, 5)

    slot = ModelSlot(registry, make, 0.01, arms=True)
    slot.check()
    registry.start_experiment("e", "current", b, 0.2)
    (tmp_path / "registry" / b / "model.safetensors").write_bytes(b"?")
    for _ in range(3):
        assert held(slot) == (a, None)
        with pytest.raises(Unavailable, match="no part in the experiment e, all users get arm a"):
            slot.check_arms()
    assert len(made) == 1
    assert len([r for r in caplog.records if "no part in the experiment" in r.message]) == 1
    registry.stop_experiment()
    slot.check()
    slot.check_arms()


def test_a_slot_may_be_unable_to_take_part(registry: Registry, versions: tuple[str, str]) -> None:
    def refuse(experiment: Experiment) -> None:
        raise ConfigurationError("no schema for it")

    slot = slot_of(registry)
    slot.accept = refuse
    registry.start_experiment("e", "current", versions[1], 0.2)
    assert held(slot) == (versions[0], None)
    with pytest.raises(Unavailable, match="no schema for it"):
        slot.check_arms()


def test_arms_end_when_the_guard_takes_back_arm_a(
    registry: Registry, versions: tuple[str, str]
) -> None:
    b = versions[1]
    slot = slot_of(registry)
    slot.check()
    good = slot.load(b)
    registry.start_experiment("e", "current", b, 0.2)
    slot.check()
    bad = slot.model
    assert bad is not None
    slot.roll_back(bad, good, "by the guard, worse")
    assert held(slot) == (b, None)
    assert pointer_of(registry).running is None
