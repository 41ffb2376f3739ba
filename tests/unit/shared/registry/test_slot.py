from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable

import pytest

from nextclick.shared.errors import CheckpointError, Unavailable
from nextclick.shared.model import Checkpoint, Ranking, Scorer
from nextclick.shared.registry import ModelSlot, Pointer
from nextclick.shared.runtime import metrics
from tests.unit.builders import CPU, checkpoint


class FakeRegistry:
    url = "fake://"

    def __init__(self) -> None:
        self.current: str | None = None
        self.away = False
        self.pointer_broken = False
        self.broken: set[str] = set()
        self.loads: list[str] = []
        self.history: list[str] = []
        self.reasons: list[str] = []
        self.read_only = False

    def pointer(self) -> Pointer | None:
        if self.away:
            raise Unavailable("registry away")
        if self.pointer_broken:
            raise CheckpointError("pointer unreadable")
        return Pointer(self.current, self.history) if self.current else None

    def rollback(self, only_if: str, reason: str = "by hand") -> Pointer:
        if self.read_only:
            raise Unavailable("read-only")
        if not self.history:
            raise CheckpointError("no earlier version")
        if self.current == only_if:
            self.reasons.append(reason)
            *self.history, self.current = self.history
        return Pointer(self.current or "", self.history)

    def publish(self, version: str) -> None:
        self.history = [*self.history, self.current] if self.current else []
        self.current = version

    def load(self, version: str) -> Checkpoint:
        self.loads.append(version)
        if version in self.broken:
            raise CheckpointError(f"version {version} is broken")
        return checkpoint()


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def slot(registry: FakeRegistry) -> ModelSlot:
    return ModelSlot(registry, lambda c: Scorer(c, CPU, 3), 0.01, clock=lambda: 0.0)  # type: ignore[arg-type]


def served(slot: ModelSlot) -> str | None:
    return slot.model.version if slot.model else None


def test_it_follows_the_pointer(registry: FakeRegistry, slot: ModelSlot) -> None:
    slot.check()
    assert served(slot) is None
    for version in ("v1", "v1", "v2", "v1"):
        registry.current = version
        slot.check()
        assert served(slot) == version
    assert registry.loads == ["v1", "v2", "v1"]


def test_a_broken_version_is_tried_once_and_the_old_one_kept(
    registry: FakeRegistry, slot: ModelSlot, caplog: pytest.LogCaptureFixture
) -> None:
    registry.current = "v1"
    slot.check()
    registry.current, registry.broken = "v2", {"v2"}
    for _ in range(5):
        slot.check()
    assert served(slot) == "v1"
    assert registry.loads == ["v1", "v2"]
    (error,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "v2 cannot serve, keeping v1" in error.message
    registry.current = "v3"
    slot.check()
    assert served(slot) == "v3"


def test_a_registry_that_is_away_changes_nothing_and_is_asked_again(
    registry: FakeRegistry, slot: ModelSlot, caplog: pytest.LogCaptureFixture
) -> None:
    registry.current = "v1"
    slot.check()
    for trouble in ("away", "pointer_broken"):
        setattr(registry, trouble, True)
        slot.check()
        slot.check()
        assert served(slot) == "v1"
        setattr(registry, trouble, False)
    assert len(caplog.records) == 1  # within a minute: said once
    registry.current = "v2"
    slot.check()
    assert served(slot) == "v2"


def test_a_scorer_that_runs_out_of_memory_keeps_the_old_model(registry: FakeRegistry) -> None:
    def make(c: Checkpoint) -> Scorer:
        if registry.current == "v2":
            raise RuntimeError("CUDA out of memory")
        return Scorer(c, CPU, 3)

    slot = ModelSlot(registry, make, 0.01)  # type: ignore[arg-type]
    for version in ("v1", "v2"):
        registry.current = version
        slot.check()
    assert served(slot) == "v1"


def test_a_bug_in_the_thread_crashes_the_serving_thread(
    registry: FakeRegistry, slot: ModelSlot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(registry, "pointer", bug)
    slot.start()
    assert slot.wait(10)
    slot.stop()
    with pytest.raises(ZeroDivisionError):
        _ = slot.model


def test_a_registry_that_goes_away_while_loading_is_asked_again(
    registry: FakeRegistry, slot: ModelSlot, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.current = "v1"
    slot.check()
    registry.current = "v2"

    def away(version: str) -> Checkpoint:
        raise Unavailable("registry away")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "load", away)
        slot.check()
        assert served(slot) == "v1"
    slot.check()
    assert served(slot) == "v2"


def test_a_version_that_is_promoted_again_is_tried_again(
    registry: FakeRegistry, slot: ModelSlot
) -> None:
    """v2 failed, say for want of memory; the operator rolls back, makes room, promotes it."""
    registry.broken = {"v2"}
    for registry.current in ("v1", "v2", "v1"):
        slot.check()
    registry.broken = set()
    registry.current = "v2"
    slot.check()
    assert served(slot) == "v2"


def test_a_first_model_that_is_broken_is_no_model(
    registry: FakeRegistry, slot: ModelSlot, caplog: pytest.LogCaptureFixture
) -> None:
    registry.current, registry.broken = "v1", {"v1"}
    slot.check()
    assert served(slot) is None
    assert not slot.wait(0)
    assert "there is no older one" in caplog.text
    registry.current = "v2"
    slot.check()
    assert slot.wait(0)


def test_an_outage_is_logged_again_after_a_minute(
    registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    times = [0.0]
    slot = ModelSlot(registry, lambda c: Scorer(c, CPU, 3), 0.01, clock=lambda: times[0])  # type: ignore[arg-type]
    registry.away = True
    for times[0] in (0, 1, 59, 60, 61, 119, 120):
        slot.check()
    assert [r.message for r in caplog.records] == ["registry away"] * 3


def test_without_any_model_it_says_what_to_do(
    slot: ModelSlot, caplog: pytest.LogCaptureFixture
) -> None:
    slot.check()
    assert "nextclick trainer --once" in caplog.text


def test_swaps_and_failures_are_counted(registry: FakeRegistry, slot: ModelSlot) -> None:
    def counted() -> tuple[float, float]:
        return metrics.SWAPS._value.get(), metrics.SWAP_FAILURES.labels("load")._value.get()

    before = counted()
    registry.broken = {"v2"}
    for registry.current in ("v1", "v1", "v2", "v2", "v3"):
        slot.check()
    after = counted()
    assert (after[0] - before[0], after[1] - before[1]) == (2, 1)


def test_a_model_is_warmed_up_before_it_serves(registry: FakeRegistry) -> None:
    sizes: list[int] = []

    class Watched(Scorer):
        def recommend(self, histories: list[list[str]]) -> list[Ranking]:
            assert served(slot) is None  # nobody is served by a model that is still cold
            sizes.append(len(histories))
            return super().recommend(histories)

    slot = ModelSlot(registry, lambda c: Watched(c, CPU, 3), 0.01)  # type: ignore[arg-type]
    registry.current = "v1"
    slot.check()
    assert served(slot) == "v1"
    assert 1 in sizes
    assert max(sizes) == 256


def test_the_thread_follows_until_it_is_stopped(registry: FakeRegistry, slot: ModelSlot) -> None:
    registry.current = "v1"
    slot.start()
    assert slot.wait(10)
    slot.stop()
    registry.current = "v2"
    assert served(slot) == "v1"
    assert not slot._thread.is_alive()


def test_a_model_that_was_swapped_out_is_freed_without_the_garbage_collector(
    registry: FakeRegistry, slot: ModelSlot
) -> None:
    """The worker takes the first model from the collector's view."""
    registry.current = "v1"
    slot.check()
    assert slot.model is not None
    old = [weakref.ref(slot.model.scorer), weakref.ref(slot.model.scorer._model)]
    gc.disable()
    try:
        registry.current = "v2"
        slot.check()
        assert [reference() for reference in old] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("stage", ["load", "smoke", "warm_up"])
def test_a_failed_swap_is_counted_where_it_failed(registry: FakeRegistry, stage: str) -> None:
    class Cold(Scorer):
        def recommend(self, histories: list[list[str]]) -> list[Ranking]:
            raise RuntimeError("too large")

    def make(c: Checkpoint) -> Scorer:
        if stage == "smoke":
            raise CheckpointError("not finite")
        return Cold(c, CPU, 3)

    counter = metrics.SWAP_FAILURES.labels(stage)._value
    before = counter.get()
    registry.current, registry.broken = "v1", {"v1"} if stage == "load" else set()
    ModelSlot(registry, make, 0.01).check()  # type: ignore[arg-type]
    assert counter.get() == before + 1


@pytest.fixture
def rolled_back(registry: FakeRegistry, slot: ModelSlot) -> Callable[[], None]:
    """v1, then v2; the call rolls back from it, as the guard does."""
    models = []
    for version in ("v1", "v2"):
        registry.publish(version)
        slot.check()
        assert slot.model is not None
        models.append(slot.model)
    good, bad = models
    return lambda: slot.roll_back(bad, good, "worse")


def test_a_version_that_was_published_is_on_trial(registry: FakeRegistry, slot: ModelSlot) -> None:
    trials = []
    for version in ("v1", "v2", "v3"):
        registry.publish(version)
        slot.check()
        assert slot.model is not None
        trials.append(slot.model.on_trial)
    assert trials == [False, True, True]  # the first has nothing before it


def test_a_version_that_a_person_went_back_to_is_not_on_trial(
    registry: FakeRegistry, slot: ModelSlot
) -> None:
    for version in ("v1", "v2", "v3"):
        registry.publish(version)
        slot.check()
    registry.rollback("v3")  # nextclick models rollback
    slot.check()
    assert slot.model is not None
    assert (slot.model.version, slot.model.on_trial) == ("v2", False)
    registry.publish("v1")  # nextclick models promote v1
    slot.check()
    assert (slot.model.version, slot.model.on_trial) == ("v1", False)


def test_after_a_rollback_the_old_model_serves_at_once_and_the_pointer_follows(
    registry: FakeRegistry, slot: ModelSlot, rolled_back: Callable[[], None]
) -> None:
    rolled_back()
    assert served(slot) == "v1"
    slot.check()
    slot.check()
    assert (served(slot), registry.current) == ("v1", "v1")
    assert registry.reasons == ["worse"]
    assert registry.loads == ["v1", "v2"], "what is in memory is not loaded again"


def test_a_registry_that_takes_no_rollback_is_asked_again_and_followed_meanwhile(
    registry: FakeRegistry,
    slot: ModelSlot,
    rolled_back: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry.read_only = True
    rolled_back()
    for _ in range(3):
        slot.check()
    assert (served(slot), registry.current) == ("v1", "v2")
    assert caplog.text.count("the registry still names model v2") == 1
    registry.read_only = False
    slot.check()
    assert (served(slot), registry.current) == ("v1", "v1")


def test_a_newer_version_is_taken_although_the_rollback_was_not(
    registry: FakeRegistry, slot: ModelSlot, rolled_back: Callable[[], None]
) -> None:
    registry.read_only = True
    rolled_back()
    slot.check()
    registry.publish("v3")
    slot.check()
    assert served(slot) == "v3"
    registry.read_only = False
    slot.check()
    assert registry.current == "v3", "v3 is not rolled back in the place of v2"


def test_a_version_that_was_rolled_back_is_taken_when_it_is_promoted_anew(
    registry: FakeRegistry, slot: ModelSlot, rolled_back: Callable[[], None]
) -> None:
    rolled_back()
    slot.check()
    registry.publish("v2")
    slot.check()
    assert slot.model is not None
    assert (slot.model.version, slot.model.on_trial) == ("v2", True)


def test_a_rollback_that_comes_too_late_replaces_nothing(
    registry: FakeRegistry, slot: ModelSlot, rolled_back: Callable[[], None]
) -> None:
    registry.publish("v3")
    slot.check()
    rolled_back()
    slot.check()
    assert (served(slot), registry.current) == ("v3", "v3")


def test_a_rollback_without_an_earlier_version_is_logged(
    registry: FakeRegistry,
    slot: ModelSlot,
    rolled_back: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry.history = []
    rolled_back()
    for _ in range(3):
        slot.check()
    assert served(slot) == "v1"
    assert caplog.text.count("no earlier version") == 1
