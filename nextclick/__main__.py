"""The command line: `nextclick COMMAND`, or `python -m nextclick COMMAND`.

Combines the commands of the services and the benchmarks. A command imports its dependencies when it
runs, because importing torch takes seconds.
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
    # torch reads this when it is loaded. Waiting threads must not spin: they share their cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    logs.set_up("nextclick", "WARNING", secrets())
    with errors_as_one_line():
        app()


if __name__ == "__main__":
    main()
