"""`nextclick dlq …`: lists and shows dead letters; services/cli/forgetting.py redrives them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from nextclick.shared.errors import NextclickError
from nextclick.shared.runtime.terminal import make_console, output

app = typer.Typer(no_args_is_help=True, help="Dead letters: messages that were not clicks.")
console = make_console()
_JSON = typer.Option(help="Write it to this file, too, as JSON; - prints nothing else.")
REASON = typer.Option(
    # A copy of dead_letters.ALL_REASONS, whose import would make --help slow.
    help="Only dead letters with this reason: empty, oversized, not_json, framed, invalid or other."
)


@app.command("list")
def list_dead_letters(
    reason: Annotated[str | None, REASON] = None,
    limit: Annotated[int, typer.Option(help="Show this many of the newest.", min=1)] = 20,
    json: Annotated[Path | None, _JSON] = None,
) -> None:
    """List dead letters, newest last, and count them by reason.

    Example: nextclick dlq list --reason invalid
    """
    from nextclick.services.dlq import dead_letters, text
    from nextclick.shared.kafka import read_offsets, retained_offsets
    from nextclick.shared.runtime.settings import Settings

    reasons = dead_letters.select_reasons(reason)
    kafka = Settings.from_environment().kafka
    retained = retained_offsets(kafka, kafka.dlq_topic)
    messages = read_offsets(kafka, kafka.dlq_topic, retained)
    newest, counts = dead_letters.newest(messages, reasons, limit)
    rows = [text.row(dead_letter) for dead_letter in newest]
    table = Table(*text.COLUMNS)
    for column in table.columns[:3]:
        column.no_wrap = True  # a position must be copyable
    for row in rows:
        cells = ("–" if row[name] is None else row[name] for name in text.COLUMNS)
        table.add_row(*map(Text, cells))  # Text: markup is not interpreted
    by_reason = [f"{name} {counts[name]:,}" for name in dead_letters.ALL_REASONS if counts[name]]

    def show() -> None:
        if rows:
            console.print(table)
        typer.echo(f"{kafka.dlq_topic}: {', '.join(by_reason) or 'no dead letters'}")

    output({"topic": kafka.dlq_topic, "counts": counts, "dead_letters": rows}, json, show)


@app.command()
def show(
    position: Annotated[str, typer.Argument(help="PARTITION/OFFSET on the dead-letter topic.")],
) -> None:
    """Show one dead letter completely.

    Example: nextclick dlq show 0/17
    """
    from nextclick.services.dlq import dead_letters, text
    from nextclick.shared.kafka import read_offsets, retained_offsets
    from nextclick.shared.runtime.settings import Settings

    partition, offset = dead_letters.parse_position(position)
    kafka = Settings.from_environment().kafka
    retained = retained_offsets(kafka, kafka.dlq_topic)
    here = range(offset, offset + 1) if offset in retained.get(partition, ()) else range(0)
    for message in read_offsets(kafka, kafka.dlq_topic, {partition: here}):
        typer.echo(text.page(dead_letters.read(message)))
        return
    raise NextclickError(
        f"no dead letter at {position}; {kafka.dlq_topic} holds {_ranges(retained)}"
    )


def _ranges(retained: dict[int, range]) -> str:
    spans = [f"{p}/{r.start} to {p}/{r.stop - 1}" for p, r in sorted(retained.items()) if r]
    return ", ".join(spans) or "none"
