"""The command line: `nextclick COMMAND`. Reads the settings, wires, and reports errors."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.cli import app as bench_app
from services.dlq.cli import app as dlq_app
from shared import logs
from shared.errors import CheckpointError, ConfigurationError, NextclickError
from shared.masking import printable, without
from shared.settings import Settings, environment_names, secrets, shown

if TYPE_CHECKING:  # importing it imports torch: seconds that most commands need not wait
    from shared.registry import Registry

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Streaming session recommender: clicks in on Kafka, next-click recommendations out.",
)
topics_app = typer.Typer(no_args_is_help=True, help="Kafka topics.")
sessions_app = typer.Typer(no_args_is_help=True, help="Session state in Redis.")
models_app = typer.Typer(no_args_is_help=True, help="The model registry.")
events_app = typer.Typer(no_args_is_help=True, help="The trainer's event log.")
app.add_typer(topics_app, name="topics")
app.add_typer(sessions_app, name="sessions")
app.add_typer(models_app, name="models")
app.add_typer(events_app, name="events")
app.add_typer(dlq_app, name="dlq")
app.add_typer(bench_app, name="bench")

console = Console(soft_wrap=True)
_WORLD = typer.Option(help="missions (shoppers with intent) or source (the plain world).")


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(help="How long; 0 = until Ctrl-C.", min=0)] = 60,
    rate: Annotated[float, typer.Option(help="Clicks per second.", min=0.1)] = 200,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=8)] = 1,
    world: Annotated[str, _WORLD] = "missions",
    json: Annotated[Path | None, typer.Option(help="Write the summary here.")] = None,
) -> None:
    """Run everything on this machine: embedded Kafka and Redis, simulator, worker, trainer.

    Example: nextclick demo --seconds 60 --rate 200 --json out.json
    """
    from services import demo
    from services.simulator import worlds

    worlds.world(world, seed=0)  # a wrong name is refused before anything is started
    if json is not None and not json.absolute().parent.is_dir():
        raise ConfigurationError(f"--json {json}: the folder does not exist")
    Settings.from_environment()
    # Both end it as Ctrl-C does, also where a shell started it in the background with SIGINT off.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    options = demo.Options(seconds or None, rate, workers, world, json and json.absolute())
    demo.run(options, console)


@app.command()
def servers(
    env: Annotated[Path, typer.Option(help="Write the settings that point at them here.")] = Path(
        "nextclick.env"
    ),
) -> None:
    """Start an embedded Kafka and Valkey to try things with; all is gone when they are stopped.

    Example: nextclick servers
    """
    from services import local

    stop = _start("servers")[1]
    local.serve(env, console, stop)


@app.command()
def simulate(
    rate: Annotated[float, typer.Option(help="Clicks per second.", min=0.1)] = 200,
    seconds: Annotated[float, typer.Option(help="How long; 0 = for ever.", min=0)] = 0,
    log: Annotated[
        Path | None, typer.Option(help="Write a Parquet log here instead of publishing.")
    ] = None,
    interactions: Annotated[
        int,
        typer.Option(help="Length of the log; on missions every one is a click.", min=1),
    ] = 200_000,
    generator: Annotated[
        str | None,
        typer.Option(help="Of the source's log: source (exact, default) or fast (same law)."),
    ] = None,
    world: Annotated[str, _WORLD] = "missions",
    seed: Annotated[int, typer.Option(help="Seed of the traffic.")] = 43,
    world_seed: Annotated[int, typer.Option(help="Seed of products and shoppers.")] = 42,
) -> None:
    """Let simulated shoppers click: live onto Kafka, or into a log file.

    Example: nextclick simulate --rate 200 --seconds 60
    Example: nextclick simulate --log clicks.parquet --rate 1 --interactions 200000
    Example: nextclick simulate --log clicks.parquet --world source --generator fast
    """
    from services.simulator import publish, worlds
    from services.simulator.world import World

    settings, stop = _start("simulate")
    shop = worlds.world(world, world_seed)
    if generator is not None and not isinstance(shop, World):
        raise ConfigurationError(f"--generator {generator}: goes with --world source only")
    if generator not in (None, "source", "fast"):
        raise ConfigurationError(f"--generator {generator}: use source or fast")
    if log is not None:
        if isinstance(shop, World) and generator == "fast":
            clicks = shop.fast_clicks(interactions, seed)
        else:
            clicks = worlds.past(shop, interactions, seed)
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        frame = publish.click_frame(clicks, now_ms, rate, seed)
        try:
            frame.to_parquet(log, index=False)
        except OSError as error:
            raise ConfigurationError(f"--log {log} cannot be written ({error})") from None
        console.print(f"{len(frame):,} clicks written to {log}")
        return

    from shared.kafka import Publisher, ensure_topics

    ensure_topics(settings.kafka, [settings.kafka.clicks_topic])
    sent = publish.publish_live(
        shop.traffic(seed),
        Publisher(settings.kafka),
        settings.kafka.clicks_topic,
        rate=rate,
        seconds=seconds or None,
        seed=seed,
        stop=stop,
    )
    logging.getLogger("nextclick").info("%d clicks sent", sent)


_FILE = typer.Argument(help="A log of clicks; gzip and zstd are unpacked.", exists=True)
_FORMAT = typer.Option(
    help="auto, parquet, csv, jsonl, sessions, rsc15, retailrocket, diginetica, otto, movielens."
)
_MAP = typer.Option("--map", help="Columns, if they have other names: user=…,item=…,time=…")
_TIME_UNIT = typer.Option(help="auto, s, ms, us, ns or iso.")
_ENCODING = typer.Option(help="Of a text file.")
_STRICT = typer.Option("--strict", help="Refuse a file in which anything is wrong.")


@app.command()
def replay(
    file: Annotated[Path, _FILE],
    format: Annotated[str, _FORMAT] = "auto",
    speed: Annotated[str, typer.Option(help="1x, 100x, … or max.")] = "1x",
    mapping: Annotated[str, _MAP] = "",
    time_unit: Annotated[str, _TIME_UNIT] = "auto",
    encoding: Annotated[str, _ENCODING] = "utf-8",
    now: Annotated[
        bool, typer.Option("--now", help="Date clicks when they are sent, not when they happened.")
    ] = False,
    strict: Annotated[bool, _STRICT] = False,
    check: Annotated[bool, typer.Option("--check", help="Read and report; send nothing.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew where an earlier replay did not end.")
    ] = False,
    state: Annotated[
        Path | None, typer.Option(help="Where to note how far it came; default: beside the file.")
    ] = None,
) -> None:
    """Publish the clicks of a file, at their own pace or faster. It goes on where it was stopped.

    Example: nextclick replay yoochoose-clicks.dat --speed 100x
    Example: nextclick replay clicks.csv.gz --map user=customer,item=sku,time=at --speed max
    """
    from services.replay import cli as replaying
    from services.replay.log import load

    settings, stop = _start("replay")
    pace = replaying.parse_speed(speed)
    clicks = load(file, format, replaying.parse_mapping(mapping), time_unit, encoding)
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
    file: Annotated[Path, _FILE],
    format: Annotated[str, _FORMAT] = "auto",
    mapping: Annotated[str, _MAP] = "",
    time_unit: Annotated[str, _TIME_UNIT] = "auto",
    encoding: Annotated[str, _ENCODING] = "utf-8",
    strict: Annotated[bool, _STRICT] = False,
) -> None:
    """Put the clicks of a file into the event log, to train on. A file that is there is left alone.

    Example: nextclick import events.csv --format retailrocket
    """
    from services.importing import import_file
    from services.replay import cli as replaying
    from services.replay.log import load

    settings, _ = _start("import")
    clicks = load(file, format, replaying.parse_mapping(mapping), time_unit, encoding)
    replaying.describe(clicks, console, strict)
    console.print(import_file(clicks, settings.trainer.event_log), markup=False)


@app.command()
def worker() -> None:
    """Answer every click with a recommendation.

    Example: NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS=kafka:9092 nextclick worker
    """
    from services.worker import main as worker_main

    settings, stop = _start("worker")
    worker_main.run(settings, stop)


@app.command()
def api(
    world: Annotated[
        str, typer.Option(help="Where clicks are simulated: the world whose ceiling to show.")
    ] = "",
    world_seed: Annotated[int, typer.Option(help="Seed of its products and shoppers.")] = 42,
) -> None:
    """Serve recommendations over HTTP, take clicks, and show the stream on a page.

    Example: NEXTCLICK_API__PORT=8000 nextclick api
    """
    try:
        from services.api import main as api_main
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{error.name} is not installed: pip install 'nextclick[api]'"
        ) from None

    settings, _ = _start("api")
    if not world:
        api_main.run(settings)
        return
    from services import rivals
    from services.simulator import worlds

    api_main.run(settings, rivals.ceiling(worlds.world(world, world_seed)))


@app.command()
def trainer(
    once: Annotated[
        bool, typer.Option("--once", help="Catch up, retrain once, exit: for cron.")
    ] = False,
) -> None:
    """Collect clicks into the event log and retrain; publish what passes the gate.

    Example: nextclick trainer --once
    """
    from trainer import main as trainer_main

    settings, stop = _start("trainer")
    trainer_main.run(settings, stop, once=once)


@app.command()
def evaluate(
    data: Annotated[
        str,
        typer.Argument(
            help="A simulated world (missions, missions-nogap, source), a folder with "
            "train_sessions.txt and test_sessions.txt, or Parquet clicks (a file, or a folder "
            "such as an event log)."
        ),
    ],
    methods: Annotated[str, typer.Option(help="Names with commas between, or all.")] = "all",
    preset: Annotated[
        str, typer.Option(help="Of our model; several, with commas between, are compared.")
    ] = "default",
    seeds: Annotated[int, typer.Option(help="Runs of each method.", min=1, max=100)] = 1,
    max_seconds: Annotated[
        float, typer.Option(help="Longest fit of a method; 0 = no limit.", min=0)
    ] = 0,
    json: Annotated[Path | None, typer.Option(help="Write the numbers here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with plots here.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads; 0 = all cores.", min=0)] = 0,
) -> None:
    """Compare recommenders on one data set: quality, noise, coverage, time.

    Example: nextclick evaluate missions --html report.html
    Example: nextclick evaluate sessions/ --methods bst,vsknn --seeds 3 --json report.json
    """
    from services import evaluation
    from shared.device import select_device

    settings = Settings.from_environment()
    evaluation.use_threads(threads)
    options = evaluation.Options(
        data, evaluation.names(methods), evaluation.names(preset), seeds, max_seconds, json, html
    )
    gap_ms = int(settings.session.gap_seconds * 1000)
    evaluation.run(options, select_device(settings.device), gap_ms, console)


@app.command()
def settings() -> None:
    """List every setting with its value here.

    Example: nextclick settings
    """
    Settings.from_environment()
    table = Table("variable", "value", "meaning")
    for name, (default, description) in environment_names().items():
        value = shown(name, os.environ[name]) if name in os.environ else default
        table.add_row(name, _cell(value), description)
    console.print(table)


@topics_app.command("create")
def topics_create() -> None:
    """Create the topics that are missing; never alter one that exists.

    Example: nextclick topics create
    """
    from shared.kafka import ensure_topics

    kafka = Settings.from_environment().kafka
    wanted = [kafka.clicks_topic, kafka.recommendations_topic, kafka.dlq_topic]
    created = ensure_topics(kafka, wanted)
    for topic in wanted:
        console.print(f"{topic}: {'created' if topic in created else 'exists, left as it is'}")


@app.command()
def explain(
    event_id: Annotated[
        str | None, typer.Argument(help="The click whose recommendation is to be explained.")
    ] = None,
    history: Annotated[
        str, typer.Option(help="Instead: item ids, oldest first, separated by commas.")
    ] = "",
    version: Annotated[
        str | None, typer.Option(help="With --history: the model version; default the current.")
    ] = None,
) -> None:
    """Show how much each click of a history contributed to each recommended item.

    Example: nextclick explain --history "Puppy Food,Food Bowl,Water Dispenser"
    """
    from services import explain

    if event_id is not None and (history or version):
        raise ConfigurationError("explain takes an EVENT_ID, or --history, not both")
    items = [item for item in (part.strip() for part in history.split(",")) if item]
    explain.show(*explain.run(Settings.from_environment(), event_id, items, version), console)


@sessions_app.command("rebuild")
def rebuild_sessions() -> None:
    """Fill Redis anew from the clicks topic, up to where the workers have come.

    For when Redis was emptied. Users who click while it runs may start anew: stop the workers
    first if that matters.

    Example: nextclick sessions rebuild
    """
    from services.worker.rebuild import run

    rebuilt = run(Settings.from_environment())
    typer.echo(f"{rebuilt.read - rebuilt.behind:,} clicks are in their users' sessions")
    if rebuilt.behind:
        typer.echo(f"{rebuilt.behind:,} lie behind newer clicks of their users and were left out")


@models_app.command("list")
def models_list() -> None:
    """List the versions, oldest first; * is current.

    Example: nextclick models list
    """
    registry = _registry()
    pointer = registry.pointer()
    table = Table("", "version", "created", "parent", "HR@10", "clicks")
    for column in table.columns[1:4]:
        column.no_wrap = True  # a version that is cut short cannot be copied
    for version in registry.versions():
        mark = "*" if pointer and pointer.version == version else ""
        try:
            manifest = registry.manifest(version)
        except CheckpointError as error:
            table.add_row(mark, _cell(version), "broken", _cell(str(error)), "", "")
            continue
        table.add_row(
            mark,
            _cell(version),
            _cell(manifest.created_at),
            _cell(manifest.parent or "–"),
            f"{manifest.metrics.get('test_hr@10', float('nan')):.4f}",
            f"{manifest.training.get('clicks', 0):,}",
        )
    console.print(table)


@models_app.command("show")
def models_show(version: str) -> None:
    """Print the manifest of a version.

    Example: nextclick models show 20260131T120000-3fa2
    """
    typer.echo(_registry().manifest(version).model_dump_json(indent=2))


@models_app.command("promote")
def models_promote(version: str) -> None:
    """Make a version current; running workers swap to it within seconds.

    Example: nextclick models promote 20260131T120000-3fa2
    """
    _registry().promote(version)
    console.print(f"current: {version}")


@models_app.command("rollback")
def models_rollback() -> None:
    """Make the version current that was before.

    Example: nextclick models rollback
    """
    console.print(f"current: {_registry().rollback().version}")


@events_app.command("compact")
def events_compact() -> None:
    """Merge small files of the event log; the trainer does so too, at each retraining.

    A trainer may run meanwhile.

    Example: NEXTCLICK_TRAINER__EVENT_LOG=event_log nextclick events compact
    """
    from trainer.compaction import compact

    folder = Path(Settings.from_environment().trainer.event_log)
    done = compact(folder)
    console.print(
        f"{folder}: {done.files_before:,} files became {done.files_after:,}, "
        f"{done.rows_rewritten:,} clicks rewritten"
    )


def _cell(text: str) -> Text:
    """Text from elsewhere in a table: what looks like markup, or steers a terminal, is none."""
    return Text(printable(text))


def _registry() -> Registry:
    from shared.registry import Registry

    return Registry(Settings.from_environment().registry.url)


def _start(name: str) -> tuple[Settings, threading.Event]:
    """Read the settings, set logging up, and turn SIGTERM and SIGINT into an event."""
    settings = Settings.from_environment()
    logs.set_up(name, settings.log_level, secrets(), settings.log_format)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return settings, stop


@contextlib.contextmanager
def _errors_as_one_line() -> Iterator[None]:
    try:
        yield
    except NextclickError as error:
        if logs.is_json():
            logging.getLogger("nextclick").critical("%s", error)
        else:
            typer.echo(f"nextclick: {printable(without(secrets(), str(error)))}", err=True)
        raise SystemExit(2) from None


def main() -> None:
    """Entry point of the console script."""
    # Read when torch is loaded. Threads that spin while they wait take the core from others.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    logs.set_up("nextclick", "WARNING", secrets())
    with _errors_as_one_line():
        app()


if __name__ == "__main__":
    main()
