"""`nextclick items`: what the items topic says, and saying it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from nextclick.services.cli.common import app, cell, console, read_settings
from nextclick.shared.runtime.terminal import output

if TYPE_CHECKING:
    from nextclick.shared.item_features import ItemContent
    from nextclick.shared.schemas import Item

items_app = typer.Typer(no_args_is_help=True, help="The shop's items: attributes, and who is out.")
app.add_typer(items_app, name="items")
_IDS = typer.Argument(help="Item ids.", metavar="ID...")


def read_files(files: list[str]) -> tuple[dict[str, Item], bool]:
    """Read files of items and print what is wrong with them; returns whether anything is."""
    from nextclick.services.items.files import read_item_files
    from nextclick.shared.data_problems import Problems

    problems = Problems()
    items = read_item_files(files, problems)
    for problem in problems.listed():
        console.print(str(problem), markup=False, highlight=False)
    return items, bool(problems.listed())


def contents(file: str) -> dict[str, ItemContent]:
    """What models learn about the items of a file, or of several (as for `items load`)."""
    from nextclick.shared.items import content_of

    return {item_id: content_of(item) for item_id, item in read_files([file])[0].items()}


@items_app.command("load")
def items_load(
    files: Annotated[list[str], typer.Argument(help="Files, folders, patterns, URLs, or -.")],
    strict: Annotated[
        bool, typer.Option("--strict", help="Send nothing if a line is no item.")
    ] = False,
) -> None:
    """Say what items are, from CSV, JSON Lines or Parquet; each is replaced as a whole.

    Example: nextclick items load items.csv
    """
    from nextclick.services.items.publish import publish
    from nextclick.shared.errors import ConfigurationError

    settings = read_settings()
    items, wrong = read_files(files)
    if strict and wrong:
        raise ConfigurationError("refused, as --strict asks; nothing was sent")
    publish(settings.kafka, items)
    typer.echo(f"{len(items):,} items sent to {settings.kafka.items_topic}")


@items_app.command("retire")
def items_retire(ids: Annotated[list[str], _IDS]) -> None:
    """Retire items: in no list within seconds, and not in the next model; sends tombstones.

    Example: nextclick items retire 4711 4712
    """
    from nextclick.services.items.publish import publish

    settings = read_settings()
    publish(settings.kafka, dict.fromkeys(ids))
    typer.echo(f"{len(dict.fromkeys(ids)):,} items retired")


@items_app.command("restore")
def items_restore(ids: Annotated[list[str], _IDS]) -> None:
    """Let lists hold items again that are retired or not available.

    The attributes of a retired item are gone: load them again if you need them.

    Example: nextclick items restore 4711
    """
    from nextclick.services.items.publish import publish
    from nextclick.shared.items import with_availability
    from nextclick.shared.kafka import read_items

    settings = read_settings()
    table = read_items(settings.kafka)
    said = {item_id: with_availability(table, item_id, True) for item_id in ids}
    back = {item_id: item for item_id, item in said.items() if item is not None}
    publish(settings.kafka, back)
    typer.echo(f"{len(back):,} items restored, {len(said) - len(back):,} were in lists already")


@items_app.command("list")
def items_list(
    retired: Annotated[
        bool, typer.Option("--retired", help="Only those that no list holds.")
    ] = False,
    json: Annotated[
        Path | None,
        typer.Option(help="Write it to this file, too, as JSON; - prints nothing else."),
    ] = None,
) -> None:
    """List what the items topic says.

    Example: nextclick items list --retired
    """
    from nextclick.shared.items import known_item
    from nextclick.shared.kafka import read_items

    table = read_items(read_settings().kafka)
    states = table.states
    listed = []
    shown = Table("item", "state", "title")
    for item_id in sorted({*table.values, *states.retired}):
        if retired and item_id not in states.withheld:
            continue
        item = known_item(table, item_id)
        state = "retired" if item is None else "available" if item.available else "not available"
        listed.append(
            {"item_id": item_id, "state": state}
            | ({} if item is None else item.model_dump(mode="json", exclude_unset=True))
        )
        shown.add_row(cell(item_id), state, cell(table.titles.get(item_id, "")))
    output(listed, json, lambda: console.print(shown))
