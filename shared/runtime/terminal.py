"""What the commands print and write: a console, progress, and JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nextclick.shared.errors import ConfigurationError

STDOUT = Path("-")
_PIPED_WIDTH = 10_000
"""Rich would cut tables at 80 columns where it sees no terminal."""
_REPORT_SECONDS = 10.0


def make_console() -> Console:
    """The console of a command; into a pipe or a file, its lines are as long as they need be."""
    fixed = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(soft_wrap=True, width=None if fixed else _PIPED_WIDTH)


def output(content: object, file: Path | None, show: Callable[[], None]) -> None:
    """Show a result to a person, and write it as JSON if `file` (of --json) is not None.

    With `file` STDOUT the JSON is all that is printed. Raises ConfigurationError if the file
    cannot be written.
    """
    text = json.dumps(content, indent=2) + "\n"
    if file == STDOUT:
        sys.stdout.write(text)
        return
    show()
    if file is not None:
        try:
            file.write_text(text, "utf-8")
        except OSError as error:
            raise ConfigurationError(f"--json {file} cannot be written ({error})") from None


@contextlib.contextmanager
def progress(total: int, unit: str, console: Console) -> Iterator[Callable[[int], None]]:
    """Show how much of long work is done; yields a function that takes the number done.

    A bar with the time that is left on a terminal, else a line every ten seconds.
    """
    if console.is_terminal:
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(unit, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    reported = time.monotonic()

    def show(done: int) -> None:
        nonlocal reported
        if time.monotonic() - reported >= _REPORT_SECONDS:
            reported = time.monotonic()
            console.print(f"{done:,} of {total:,} {unit}")

    yield show
