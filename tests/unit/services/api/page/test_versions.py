from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nextclick.services.api.page.versions import Versions
from nextclick.shared.registry import ModelSlot, Registry
from tests.integration.traffic import publish_model
from tests.unit.builders import checkpoint


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(str(tmp_path))


@pytest.fixture
def versions(registry: Registry) -> Versions:
    return Versions(registry, cast(ModelSlot, SimpleNamespace(model=None)))


def states(read: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["version"], row["state"]) for row in read["versions"]]


def test_a_rollback_is_shown_with_its_time_and_reason(
    registry: Registry, versions: Versions, tmp_path: Path
) -> None:
    assert versions.read()["versions"] == []
    first, second = publish_model(tmp_path, 1), publish_model(tmp_path, 2)
    assert states(versions.read()) == [(second, "current"), (first, "before")]
    registry.rollback(reason="worse", now=datetime.fromtimestamp(7, UTC))
    read = versions.read()
    assert states(read) == [(second, "taken_back"), (first, "current")]
    assert read["rollbacks"] == [{"at": 7000.0, "version": second, "reason": "worse"}]
    registry.promote(second)
    read = versions.read()
    assert states(read) == [(second, "current"), (first, "before")]
    assert len(read["rollbacks"]) == 1


def test_a_version_that_was_never_promoted_was_not_taken_back(
    registry: Registry, versions: Versions
) -> None:
    days = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3))
    first, second, third = (registry.publish(checkpoint(), day, promote=False) for day in days)
    assert states(versions.read()) == [
        (third, "not_promoted"),
        (second, "not_promoted"),
        (first, "current"),
    ]


def test_refusals_come_with_their_numbers_and_broken_versions_are_named(
    registry: Registry, versions: Versions, tmp_path: Path
) -> None:
    version = publish_model(tmp_path, 1)
    registry.note_refusal("worse: HR@10 candidate 0.1")
    (tmp_path / version / "manifest.json").write_text("{")
    read = versions.read()
    assert [refusal["reason"] for refusal in read["refusals"]] == ["worse: HR@10 candidate 0.1"]
    assert states(read) == [(version, "unreadable")]
