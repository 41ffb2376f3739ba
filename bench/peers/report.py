"""The table of `nextclick bench peers`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from nextclick.bench.peers.measure import Row
from nextclick.bench.round_trip import Servers

QUIX = "Quix Streams"


def show(rows: Sequence[Row], servers: Servers, console: Console) -> None:
    """Print the figures of both contestants, one column per catalogue, and the legend."""
    table = Table("clicks/s", *(f"{row.items:,} items" for row in rows))
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("nextclick", *(f"{row.nextclick:,.0f}" for row in rows))
    table.add_row(QUIX, *(f"{row.quix:,.0f}" for row in rows))
    table.add_row("ratio", *(f"{row.ratio:.1f}×" for row in rows), end_section=True)
    table.add_row("nextclick, floor", *(f"{row.nextclick_floor:,.0f}" for row in rows))
    table.add_row("Quix Streams, floor", *(f"{row.quix_floor:,.0f}" for row in rows))
    table.add_row("ratio", *(f"{row.floor_ratio:.1f}×" for row in rows))
    console.print(table)
    table = Table("items", "clicks/s", "", "p50, ms", "p90", "p99", "p50 × echo", "p99 × echo")
    for column in (*table.columns[:2], *table.columns[3:]):
        column.justify = "right"
    for row in rows:
        for latency in row.latency:
            table.add_section()
            contestants = {"echo": latency.echo, "nextclick": latency.nextclick, QUIX: latency.quix}
            for name, found in contestants.items():
                table.add_row(
                    *(f"{row.items:,}", f"{latency.rate:,.0f}", name),
                    *(f"{ms:,.1f}" for ms in (found.p50_ms, found.p90_ms, found.p99_ms)),
                    f"{found.p50_ms / latency.echo.p50_ms:,.1f}",
                    f"{found.p99_ms / latency.echo.p99_ms:,.1f}",
                )
    console.print(table)
    versions = ", ".join(f"{name} {version}" for name, version in rows[0].peer.items())
    console.print(
        "floor: with a scorer that costs nothing. Ratios: median over the rounds. Both gave the "
        f"same answers to all clicks. {QUIX} ran with {versions}. Latency: from the time a click "
        "was due until a reader had its answer; it grows during a run in which fewer clicks/s are "
        "answered than come. echo: consume and produce, no model, no state."
    )
    console.print(". ".join(f"{name}: {text}" for name, text in servers.facts.items()) + ".")
