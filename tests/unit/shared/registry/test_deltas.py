"""Deltas in a real registry, and a slot that takes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nextclick.shared.errors import CheckpointError, Unavailable
from nextclick.shared.model import Scorer
from nextclick.shared.model.checkpoint import WEIGHTS
from nextclick.shared.model.delta import Delta
from nextclick.shared.registry import ModelSlot, Registry
from tests.unit.builders import CPU, checkpoint
from tests.unit.shared.model.test_delta import a_delta


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path))


def delta_of(registry: Registry, version: str, number: int = 7) -> Delta:
    sha256 = registry.manifest(version).files[WEIGHTS]
    return replace(a_delta(), base=version, base_sha256=sha256, number=number)


def slot_of(registry: Registry, *, deltas: bool = True) -> ModelSlot:
    return ModelSlot(registry, lambda c: Scorer(c, CPU, 5), 0.01, deltas=deltas)


def served(slot: ModelSlot) -> tuple[str, object]:
    slot.check()
    assert slot.model is not None
    return slot.model.name, slot.model.scorer.recommend([["1", "2"]])


def test_the_newest_delta_is_taken_and_its_name_is_enough_to_compute_a_list(
    registry: Registry,
) -> None:
    version = registry.publish(checkpoint())
    slot = slot_of(registry)
    assert served(slot)[0] == version
    for number in (7, 9):
        registry.publish_delta(delta_of(registry, version, number))
    name, lists = served(slot)
    assert name == f"{version}+9"
    assert slot.model is not None
    assert slot.model.version == version
    assert Scorer(registry.load(name), CPU, 5).recommend([["1", "2"]]) == lists
    assert registry.versions() == [version]


def test_without_deltas_lists_are_those_of_the_base(registry: Registry) -> None:
    version = registry.publish(checkpoint())
    registry.publish_delta(delta_of(registry, version))
    name, lists = served(slot_of(registry, deltas=False))
    assert name == version
    assert lists == Scorer(registry.load(version), CPU, 5).recommend([["1", "2"]])


def test_deltas_end_with_their_base(registry: Registry) -> None:
    first = registry.publish(checkpoint())
    registry.publish_delta(delta_of(registry, first))
    slot = slot_of(registry)
    slot.check()
    assert served(slot)[0] == f"{first}+7"
    second = registry.publish(checkpoint(seed=1))
    assert served(slot)[0] == second
    assert served(slot)[0] == second
    registry.rollback()
    slot.check()
    assert served(slot)[0] == f"{first}+7"


def test_a_broken_delta_is_refused_and_the_next_one_taken(
    registry: Registry, tmp_path: Path
) -> None:
    version = registry.publish(checkpoint())
    slot = slot_of(registry)
    slot.check()
    registry.publish_delta(delta_of(registry, version, 7))
    file = tmp_path / version / "delta-7"
    file.write_bytes(file.read_bytes()[:-1])
    assert served(slot)[0] == version
    registry.publish_delta(replace(delta_of(registry, version, 8), new_items=["1"]))
    assert served(slot)[0] == version
    registry.publish_delta(delta_of(registry, version, 9))
    assert served(slot)[0] == f"{version}+9"


def test_a_delta_of_another_base_is_refused(registry: Registry) -> None:
    version = registry.publish(checkpoint())
    registry.publish_delta(replace(delta_of(registry, version), base_sha256="of another"))
    with pytest.raises(CheckpointError, match="another base"):
        registry.load(f"{version}+7")


def test_a_rolled_back_version_does_not_come_back_with_a_delta(registry: Registry) -> None:
    first, second = registry.publish(checkpoint()), registry.publish(checkpoint(seed=1))
    slot = slot_of(registry)
    slot.check()
    registry.publish_delta(delta_of(registry, second))
    slot.check()
    bad = slot.model
    assert bad is not None
    assert bad.name == f"{second}+7"
    slot.roll_back(bad, slot.load(first), "worse")
    registry.publish_delta(delta_of(registry, second, 8))
    assert served(slot)[0] == first
    pointer = registry.pointer()
    assert pointer is not None
    assert pointer.version == first


def test_a_number_is_used_once(registry: Registry) -> None:
    version = registry.publish(checkpoint())
    registry.publish_delta(delta_of(registry, version))
    with pytest.raises(Unavailable, match="another process has published"):
        registry.publish_delta(replace(delta_of(registry, version), weight=0.5))
    assert registry.load_delta(version, 7).weight == pytest.approx(0.9)


def test_a_delta_of_a_version_that_was_removed_is_refused(registry: Registry) -> None:
    first = registry.publish(checkpoint())
    delta = delta_of(registry, first)
    registry.publish(checkpoint(seed=1))
    registry.remove([first])
    with pytest.raises(CheckpointError, match="not in the registry"):
        registry.publish_delta(delta)


def test_old_deltas_are_removed_and_a_delta_is_no_version(registry: Registry) -> None:
    version = registry.publish(checkpoint())
    for number in (7, 8, 9):
        registry.publish_delta(delta_of(registry, version, number))
    assert registry.prune_deltas(version, before=9) == 2
    assert registry.newest_delta(version) == 9
    assert registry.delta_numbers(version) == [9]
    assert len(registry.load(f"{version}+9").vocabulary) == 31
    with pytest.raises(CheckpointError, match="not in the registry"):
        registry.load(f"{version}+7")
    with pytest.raises(CheckpointError, match="promote its base"):
        registry.promote(f"{version}+9")
