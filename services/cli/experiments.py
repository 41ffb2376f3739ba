"""`nextclick experiment`: two models on live traffic."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from nextclick.services.cli.common import app, cell, console, read_settings
from nextclick.services.cli.upkeep import open_registry
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.runtime.terminal import output, progress

experiment_app = typer.Typer(no_args_is_help=True, help="Two models on live traffic.")
app.add_typer(experiment_app, name="experiment")
_JSON = typer.Option(help="Write it to this file, too, as JSON; - prints nothing else.")


@experiment_app.command("start")
def experiment_start(
    name: Annotated[str, typer.Argument(help="As messages and the report name it.")],
    b: Annotated[str, typer.Option("--b", help="The version that is tried.")],
    share: Annotated[str, typer.Option(help="Of the users, whom b serves: 20% or 0.2.")],
    a: Annotated[
        str, typer.Option("--a", help="What the others get: a version, or current.")
    ] = "current",
) -> None:
    """Serve version b to a share of the users; running workers do so within seconds.

    Until the experiment is stopped, a and b stay as they are: what is published waits.

    Example: nextclick experiment start newer --a current --b 20260131T120000-3fa2 --share 20%
    """
    from nextclick.shared.experiments import parse_share

    of_users = parse_share(share)
    started = open_registry().start_experiment(name, a, b, of_users)
    console.print(
        f"{started.name}: {of_users:.4g} of the users get {started.b}, the others {started.a}",
        markup=False,
        highlight=False,
    )


@experiment_app.command("status")
def experiment_status(json: Annotated[Path | None, _JSON] = None) -> None:
    """List the experiments, oldest first; the last one may be running.

    Example: nextclick experiment status
    """
    from nextclick.services.experiments.report import experiment_as_json

    pointer = open_registry().pointer()
    experiments = pointer.experiments if pointer is not None else []
    table = Table("experiment", "state", "versions", "share of b", "started")
    table.columns[2].no_wrap = True  # a version that is cut short cannot be copied
    for one in experiments:
        table.add_row(
            cell(one.name),
            cell(one.outcome) if one.ended_at else "running",
            Text.assemble("a ", cell(one.a), "\nb ", cell(one.b)),
            f"{one.share:.4g}",
            f"{one.started_at:%Y-%m-%d %H:%M}",
        )
    output([experiment_as_json(one) for one in experiments], json, lambda: console.print(table))


@experiment_app.command("report")
def experiment_report(
    name: Annotated[str | None, typer.Argument(help="Default: the newest one.")] = None,
    json: Annotated[Path | None, _JSON] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the uplift over time here.")] = None,
) -> None:
    """Say which of the two is better, as far as one can know by now.

    Reads the clicks and the recommendations since the start. Look as often as you like: intervals
    and verdict allow it.

    Example: nextclick experiment report newer --plot uplift.png
    """
    from nextclick.services.experiments import report

    shown = partial(progress, unit="messages read", console=console)
    found = report.run(read_settings(), name, shown)
    if plot is not None:
        report.plot(found, plot)
    output(report.as_json(found), json, lambda: report.show(found, console))


@experiment_app.command("stop")
def experiment_stop(
    promote: Annotated[
        str | None, typer.Option(help="The arm whose version becomes current: a or b.")
    ] = None,
) -> None:
    """End the experiment; all users get the current version within seconds.

    Example: nextclick experiment stop --promote b
    """
    if promote not in (None, "a", "b"):
        raise ConfigurationError(f"--promote {promote}: the arms are a and b")
    console.print(f"current: {open_registry().stop_experiment(promote).version}")
