"""How close the default preset comes to the best possible."""

from __future__ import annotations

import pytest

from tests.integration.test_quality import check_source_world


@pytest.mark.long
def test_the_source_world_after_800_steps() -> None:
    check_source_world(800, 0.93)
