"""Commands about clicks and lists: replay, import, evaluate, explain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nextclick.services.cli.common import app, console, read_settings, start
from nextclick.shared.errors import ConfigurationError

_FILES = typer.Argument(
    help="Logs of clicks: files, folders, patterns ('day-*.csv'), URLs (s3://…), or - for standard "
    "input; gzip, bzip2, xz, zstd and zip are unpacked."
)
_FORMAT = typer.Option(
    help="auto, parquet, csv, jsonl, sessions, rsc15, retailrocket, diginetica, otto, movielens."
)
_MAP = typer.Option(
    "--map",
    help="Columns: user=…,item=…,time=…,type=…,id=…; in jsonl a.b is b in the object a, "
    "and a|b is b where there is no a.",
)
_COLUMNS = typer.Option(help="Names of the columns of a CSV file without a header.")
_TIME_UNIT = typer.Option(
    help="Unit of timestamps: auto, s, ms, us, ns, iso or compact (YYYYMMDDhhmmss)."
)
_TIME_FORMAT = typer.Option(help="Format of timestamps, such as '%d.%m.%Y %H:%M'.")
_GUESTS = typer.Option(
    help="Events without a user (empty, NULL, NaN, …): drop, each (a user each) or keep (they are "
    "names)."
)
_ENCODING = typer.Option(help="Encoding of a text file.")
_STRICT = typer.Option("--strict", help="Refuse a file with any invalid line.")


@app.command()
def replay(
    files: Annotated[list[str], _FILES],
    format: Annotated[str, _FORMAT] = "auto",
    speed: Annotated[str, typer.Option(help="1x, 100x, … or max.")] = "1x",
    mapping: Annotated[str, _MAP] = "",
    columns: Annotated[str, _COLUMNS] = "",
    time_unit: Annotated[str, _TIME_UNIT] = "auto",
    time_format: Annotated[str, _TIME_FORMAT] = "",
    guests: Annotated[str, _GUESTS] = "drop",
    encoding: Annotated[str, _ENCODING] = "utf-8",
    now: Annotated[
        bool, typer.Option("--now", help="Use the time of sending as timestamp of a click.")
    ] = False,
    strict: Annotated[bool, _STRICT] = False,
    check: Annotated[bool, typer.Option("--check", help="Read and report; send nothing.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start over instead of resuming an earlier replay.")
    ] = False,
    state: Annotated[
        Path | None, typer.Option(help="File for the progress; default: beside the click file.")
    ] = None,
) -> None:
    """Publish the clicks of a file, at their own pace or faster. An interrupted replay resumes.

    Example: nextclick replay yoochoose-clicks.dat --speed 100x
    Example: nextclick replay clicks.csv.gz --map user=customer,item=sku,time=at --speed max
    """
    from nextclick.services.replay import cli as replaying
    from nextclick.services.replay.log import load

    settings, stop = start("replay", tool=True)
    pace = replaying.parse_speed(speed)
    reading = replaying.read_options(
        settings, format, mapping, columns, time_unit, time_format, guests, encoding
    )
    clicks = load(files, reading)
    replaying.describe(clicks, console, strict)
    if not check:
        replaying.replay(
            clicks,
            settings.kafka,
            stop,
            console,
            speed=pace,
            now=now,
            restart=restart,
            state_file=state,
        )


@app.command("import")
def import_file(
    files: Annotated[list[str], _FILES],
    format: Annotated[str, _FORMAT] = "auto",
    mapping: Annotated[str, _MAP] = "",
    columns: Annotated[str, _COLUMNS] = "",
    time_unit: Annotated[str, _TIME_UNIT] = "auto",
    time_format: Annotated[str, _TIME_FORMAT] = "",
    guests: Annotated[str, _GUESTS] = "drop",
    encoding: Annotated[str, _ENCODING] = "utf-8",
    strict: Annotated[bool, _STRICT] = False,
) -> None:
    """Add the clicks of a file to the event log, to train on; the same file is added only once.

    Example: nextclick import events.csv --format retailrocket
    """
    from nextclick.services.cli.import_clicks import import_file
    from nextclick.services.replay import cli as replaying
    from nextclick.services.replay.log import load

    settings, _ = start("import", tool=True)
    reading = replaying.read_options(
        settings, format, mapping, columns, time_unit, time_format, guests, encoding
    )
    clicks = load(files, reading)
    replaying.describe(clicks, console, strict)
    console.print(import_file(clicks, settings.trainer.event_log), markup=False)


@app.command()
def evaluate(
    data: Annotated[
        str,
        typer.Argument(
            help="A simulated world (missions, missions-nogap, missions-purchases, variants, "
            "source), a folder with train_sessions.txt and test_sessions.txt, an event log, or "
            "files as for import."
        ),
    ],
    methods: Annotated[str, typer.Option(help="Names, separated by commas, or all.")] = "all",
    preset: Annotated[
        str, typer.Option(help="Presets of our model to compare, separated by commas.")
    ] = "default",
    seeds: Annotated[int, typer.Option(help="Runs of each method.", min=1, max=100)] = 1,
    max_seconds: Annotated[
        float, typer.Option(help="Longest fit of a method; 0 = no limit.", min=0)
    ] = 0,
    items: Annotated[
        str,
        typer.Option(
            help="Files of items, as for `items load`: our model learns from them, too, and those "
            "that nobody clicked are ranked."
        ),
    ] = "",
    json: Annotated[Path | None, typer.Option(help="Write the numbers here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots here.")] = None,
    format: Annotated[str, _FORMAT] = "auto",
    mapping: Annotated[str, _MAP] = "",
    columns: Annotated[str, _COLUMNS] = "",
    time_unit: Annotated[str, _TIME_UNIT] = "auto",
    time_format: Annotated[str, _TIME_FORMAT] = "",
    guests: Annotated[str, _GUESTS] = "drop",
    encoding: Annotated[str, _ENCODING] = "utf-8",
    bound_users: Annotated[
        bool | None,
        typer.Option(
            "--bound-users/--all-clicks",
            help="Leave out the clicks of bots, as a retraining does (docs/models.md), or count "
            "all; default: of an event log, and no others.",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 = all cores.", min=0)] = 0,
    stream: Annotated[
        bool,
        typer.Option(
            "--stream", help="Predict each click before learning from it, with retrainings."
        ),
    ] = False,
    every: Annotated[
        str,
        typer.Option(
            help="With --stream: retrain after so many clicks, or so much event time (30m, 6h, "
            "1d); default: NEXTCLICK_TRAINER__EVERY_CLICKS."
        ),
    ] = "",
    deltas: Annotated[
        int,
        typer.Option(
            help="With --stream: also learn between retrainings, after so many clicks; 0: not.",
            min=0,
        ),
    ] = 0,
    plot: Annotated[
        Path | None, typer.Option(help="With --stream: write a plot over time here.")
    ] = None,
    off_policy: Annotated[
        bool,
        typer.Option(
            "--off-policy",
            help="DATA is a topic whose profile explores, or a file of its messages, one a line: "
            "estimate what other models' lists would have been worth.",
        ),
    ] = False,
    versions: Annotated[
        str,
        typer.Option(
            help="With --off-policy: model versions, separated by commas; default: current."
        ),
    ] = "",
) -> None:
    """Compare recommenders on one data set: quality, noise, coverage, time.

    Example: nextclick evaluate missions --html report.html
    Example: nextclick evaluate sessions/ --methods bst,vsknn --seeds 3 --json report.json
    Example: nextclick evaluate event_log/ --items items.csv
    Example: nextclick evaluate event_log/ --stream --every 6h --deltas 500 --plot stream.png
    Example: nextclick evaluate recommendations.news --off-policy --versions current
    """
    import torch

    from nextclick.services.cli import items as items_command
    from nextclick.services.evaluate import evaluation
    from nextclick.services.replay import cli as replaying
    from nextclick.shared.model import select_device
    from nextclick.trainer.retrain import FitLimits

    settings = read_settings()
    if threads:
        torch.set_num_threads(threads)
    reading = replaying.read_options(
        settings, format, mapping, columns, time_unit, time_format, guests, encoding
    )
    gap_ms, device = int(settings.session.gap_seconds * 1000), select_device(settings.device)
    if versions and not off_policy:
        raise ConfigurationError("--versions goes with --off-policy")
    if off_policy:
        if stream or html is not None or plot is not None or seeds != 1 or methods != "all":
            raise ConfigurationError("--off-policy goes with --versions and --json only")
        from nextclick.services.evaluate import off_policy_report
        from nextclick.shared.runtime.terminal import output

        names = evaluation.names(versions) or [off_policy_report.CURRENT]
        found = off_policy_report.run(settings, data, names, device, gap_ms)
        content = off_policy_report.as_json(found)
        output(content, json, lambda: off_policy_report.show(found, console))
        return
    if stream:
        other = html is not None or seeds != 1 or methods != "all" or bound_users is not None
        if other or items:
            raise ConfigurationError(
                "--stream goes without --methods, --seeds, --items, --html, --bound-users and "
                "--all-clicks"
            )
        trainer = settings.trainer
        evaluation.run_stream(
            evaluation.StreamOptions(
                data,
                reading,
                preset,
                every or str(trainer.every_clicks),
                trainer.window_clicks,
                FitLimits(trainer.seed, trainer.max_epochs, max_seconds or trainer.max_fit_seconds),
                settings.clicks.max_per_minute,
                json,
                plot,
                deltas,
            ),
            device,
            gap_ms,
            console,
        )
        return
    if every or deltas or plot is not None:
        raise ConfigurationError("--every, --deltas and --plot go with --stream")
    options = evaluation.Options(
        data,
        reading,
        evaluation.names(methods),
        evaluation.names(preset),
        seeds,
        max_seconds,
        json,
        html,
        bound_users,
        settings.clicks.max_per_minute,
        items_command.contents(items) if items else None,
        settings.trainer.max_cold_items,
    )
    evaluation.run(options, device, gap_ms, console)


@app.command()
def explain(
    event_id: Annotated[
        str | None, typer.Argument(help="The click whose recommendation to explain.")
    ] = None,
    history: Annotated[
        str, typer.Option(help="Instead: item ids, oldest first, separated by commas.")
    ] = "",
    version: Annotated[
        str | None, typer.Option(help="With --history: the model version; default: the current.")
    ] = None,
) -> None:
    """Show how much each click of a history contributed to each recommended item.

    Example: nextclick explain --history "Puppy Food,Food Bowl,Water Dispenser"
    """
    from nextclick.services.cli import explain

    if event_id is not None and (history or version):
        raise ConfigurationError("explain takes an EVENT_ID, or --history, not both")
    items = [item for item in (part.strip() for part in history.split(",")) if item]
    explain.show(*explain.run(read_settings(), event_id, items, version), console)
