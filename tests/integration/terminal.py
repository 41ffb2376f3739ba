"""The command `nextclick` as a person runs it, but that its process is forked, not started anew."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from tests.faults import children


def nextclick(
    environ: dict[str, str],
    *arguments: str,
    prepare: children.Prepare | None = None,
    **overrides: str,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end; `prepare` may tamper with the process."""
    environ = {**environ, "COLUMNS": "200", **overrides}
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        child = children.Child(children.start(arguments, environ, output, prepare, errors))
        try:
            code = child.wait(120)
        finally:
            child.kill()
        return subprocess.CompletedProcess(arguments, code, output.read_text(), errors.read_text())


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that an error leaves."""
    assert result.returncode == 2, result
    lines = result.stderr.strip().splitlines()
    assert lines[-1].startswith("nextclick: "), result.stderr
    assert "Traceback" not in result.stderr
    return lines[-1]
