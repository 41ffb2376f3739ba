"""The command line: `nextclick COMMAND`, or `python -m nextclick COMMAND`.

Here the commands of the services and the benchmarks come together. Commands import what they need
when they run: torch alone takes seconds.
"""

from __future__ import annotations

import os

from nextclick.bench.cli import app as bench_app
from nextclick.services.cli import app, errors_as_one_line
from nextclick.shared.runtime import logs
from nextclick.shared.runtime.environment import secrets

app.add_typer(bench_app, name="bench")


def main() -> None:
    """Entry point of the console script."""
    # Read when torch is loaded. Threads that spin while they wait take the core from others.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    logs.set_up("nextclick", "WARNING", secrets())
    with errors_as_one_line():
        app()


if __name__ == "__main__":
    main()
