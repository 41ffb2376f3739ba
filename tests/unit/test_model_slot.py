from __future__ import annotations

import logging

import pytest

from services.worker.model_slot import ModelSlot
from shared.checkpoint import Checkpoint
from shared.errors import CheckpointError, Unavailable
from shared.registry import Pointer
from shared.scorer import Scorer
from tests.unit.builders import CPU, checkpoint


class FakeRegistry:
    url = "fake://"

    def __init__(self) -> None:
        self.current: str | None = None
        self.away = False
        self.pointer_broken = False
        self.broken: set[str] = set()
        self.loads: list[str] = []

    def pointer(self) -> Pointer | None:
        if self.away:
            raise Unavailable("registry away")
        if self.pointer_broken:
            raise CheckpointError("pointer unreadable")
        return Pointer(self.current, []) if self.current else None

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
