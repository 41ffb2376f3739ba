"""The command `nextclick` as a person runs it."""

from __future__ import annotations

import subprocess
import sys


def nextclick(
    environ: dict[str, str], *arguments: str, **overrides: str
) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [sys.executable, "-m", "nextclick", *arguments],
        env={**environ, "COLUMNS": "200", **overrides},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that an error leaves."""
    assert result.returncode == 2, result
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("nextclick: "), result.stderr
    assert "Traceback" not in result.stderr
    return lines[-1]
