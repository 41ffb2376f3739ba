from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest

from nextclick.services.api.open_files import OTHER_FILES, allowed_connections


@pytest.fixture(autouse=True)
def usual_limit() -> Iterator[None]:
    """A soft limit as most systems have it; that of before at the end."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_is_raised_for_many_connections() -> None:
    assert allowed_connections(1024) == 1024
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 1024 + OTHER_FILES


def test_it_stays_where_it_suffices() -> None:
    assert allowed_connections(100) == 100
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 1024


def test_what_may_not_be_raised_bounds_the_connections() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1500));"
        "from nextclick.services.api.open_files import allowed_connections;"
        "print(allowed_connections(2000), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [str(1500 - OTHER_FILES), "1500", "1500"]
    assert "NEXTCLICK_API__MAX_CONNECTIONS" in ended.stderr
