"""The table of `nextclick bench peers`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from bench.peers.measure import Row


def show(rows: Sequence[Row], console: Console) -> None:
    """Print both contestants side by side, one column per catalogue."""
    table = Table("clicks/s", *(f"{row.items:,} items" for row in rows))
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("ours", *(f"{row.ours:,.0f}" for row in rows))
    table.add_row("Quix Streams", *(f"{row.theirs:,.0f}" for row in rows))
    table.add_row("ratio", *(f"{row.ratio:.1f}×" for row in rows), end_section=True)
    table.add_row("our floor", *(f"{row.our_floor:,.0f}" for row in rows))
    table.add_row("Quix Streams, floor", *(f"{row.their_floor:,.0f}" for row in rows))
    table.add_row("ratio", *(f"{row.floor_ratio:.1f}×" for row in rows))
    console.print(table)
    versions = ", ".join(f"{name} {version}" for name, version in rows[0].peer.items())
    console.print(
        "floor: with a scorer that costs nothing. Ratios: median over the rounds. Both gave the "
        f"same answers to all clicks. The twin ran with {versions}."
    )
