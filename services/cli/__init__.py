"""The command line: `nextclick COMMAND`. Reads the settings, wires, and reports errors.

Commands import what they need when they run: torch alone takes seconds.
"""

from __future__ import annotations

import os

from bench.cli import app as bench_app
from services.cli import running, tools, upkeep
from services.cli.common import app, errors_as_one_line
from services.dlq.cli import app as dlq_app
from shared import logs
from shared.settings import secrets

__all__ = ["app", "main", "running", "tools", "upkeep"]

app.add_typer(dlq_app, name="dlq")
app.add_typer(bench_app, name="bench")


def main() -> None:
    """Entry point of the console script."""
    # Read when torch is loaded. Threads that spin while they wait take the core from others.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    logs.set_up("nextclick", "WARNING", secrets())
    with errors_as_one_line():
        app()
