"""The demo: starts, watches and stops everything on this machine in one call.

Starts embedded Kafka and Valkey, fits a first model on simulated past clicks, and then starts
simulator, workers and trainer as separate processes, as in production. The table is computed from
the topics alone.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.live import Live as LiveDisplay
from rich.table import Table

from nextclick.services.demo import local_servers
from nextclick.services.demo.baselines import ceiling, constant_list
from nextclick.services.demo.local_servers import Processes
from nextclick.services.demo.watcher import UPDATE_SECONDS, Watcher
from nextclick.services.simulator import worlds
from nextclick.services.simulator.publish import click_frame
from nextclick.services.simulator.shop import Clicks
from nextclick.shared.errors import NextclickError, Unavailable
from nextclick.shared.kafka import LagMonitor, ensure_topics, read_offsets, retained_offsets
from nextclick.shared.model import select_device
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings, Settings
from nextclick.shared.stream_metrics import K, StreamMetrics
from nextclick.trainer.collect import EventLog
from nextclick.trainer.fit.presets import preset
from nextclick.trainer.retrain import FitLimits, retrain

BOOTSTRAP_INTERACTIONS = {"missions": 40_000, "source": 200_000}
BOOTSTRAP_EPOCHS = 3
RETRAIN_EPOCHS = 1
DRAIN_SECONDS = 60.0
_ADDRESSES = ("KAFKA__BOOTSTRAP_SERVERS", "REDIS__URL")


@dataclass(frozen=True)
class Options:
    """Options of the command line."""

    seconds: float | None
    """None: until Ctrl-C."""
    rate: float
    workers: int
    world: str
    json_file: Path | None
    seed: int = 42


def run(options: Options, console: Console) -> None:
    """Run the demo to its end, print the summary, and remove all its files.

    Raises NextclickError after the summary if a process has died or a click stayed unanswered.
    """
    folder = Path(tempfile.mkdtemp(prefix="nextclick-demo-"))
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "torch")  # else torch leaves files in /tmp
    try:
        # In the first minute the optimising compiler costs more than it gains: p99 50, not 23 ms.
        with local_servers.servers(folder, long_lived=False) as environ:
            kafka, redis = (environ[f"{PREFIX}{name}"] for name in _ADDRESSES)
            console.print(f"Kafka on {kafka}, Redis on {redis} (embedded)")
            _run(options, console, folder, environ)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(options: Options, console: Console, folder: Path, environ: dict[str, str]) -> None:
    shop = worlds.world(options.world, options.seed)
    kafka = KafkaSettings(bootstrap_servers=environ[f"{PREFIX}KAFKA__BOOTSTRAP_SERVERS"])
    ensure_topics(kafka, kafka.topics)
    past = worlds.historic_clicks(shop, BOOTSTRAP_INTERACTIONS[options.world], options.seed)
    popularity = _bootstrap(past, options, console, folder)

    live = StreamMetrics(
        baselines={"popularity": constant_list(popularity), "ceiling": ceiling(shop)}
    )
    watcher = Watcher(kafka, live)
    services = Processes(folder, environ)
    failure: NextclickError | None = None
    try:
        services.start("trainer", ["trainer"], _trainer_settings(), background=True)
        for i in range(options.workers):
            services.start(f"worker-{i + 1}", ["worker"])
        simulate = ["simulate", "--rate", str(options.rate), "--seed", str(options.seed + 1)]
        simulate += ["--world", options.world, "--world-seed", str(options.seed)]
        if options.seconds is not None:
            simulate += ["--seconds", str(options.seconds)]
        console.print("starting trainer, workers and simulator …")
        services.wait_for_partitions()
        console.print(f"live page: {_start_page(services, options)}")
        services.start("simulator", simulate)
        with _interrupts_as_event() as stop:
            _show(services, watcher, _TableContent(live, kafka), console, stop)
        console.print("stopping: no new clicks, waiting for the last answers …")
        services.stop("simulator")
        watcher.drain(DRAIN_SECONDS)
        services.stop_all()
    except NextclickError as error:
        services.show_logs(console)
        failure = error
    except BaseException:
        services.show_logs(console)
        raise
    finally:
        services.kill_all()
        watcher.close()
    if live.clicks:
        _summarise(live, kafka, options, console)
    if failure is not None:
        raise failure
    if live.missing:
        raise NextclickError(f"{live.missing} clicks not answered within {DRAIN_SECONDS:.0f} s")


def _start_page(services: Processes, options: Options) -> str:
    """Start the HTTP service; returns its address, or how to install it."""
    if importlib.util.find_spec("fastapi") is None:
        return "pip install 'nextclick[api]'"
    arguments = ["api", "--world", options.world, "--world-seed", str(options.seed)]
    services.start("api", arguments, {f"{PREFIX}API__PORT": "0"})
    return services.wait_for("api", r"listening on (http://[^\s\"]+)")


def _bootstrap(
    historic_clicks: Clicks, options: Options, console: Console, folder: Path
) -> list[str]:
    """Write an event log of past clicks, and fit the first model; returns the K top items."""
    began = time.monotonic()
    frame = click_frame(historic_clicks, int(time.time() * 1000), options.rate, options.seed)
    event_log = EventLog(str(folder / "event_log"))
    event_log.import_clicks(frame)
    console.print(
        f"bootstrapped a log of {len(frame):,} clicks by {frame['user_id'].nunique():,} shoppers; "
        "fitting the first model …"
    )
    torch.set_num_threads(_fit_threads())
    outcome = retrain(
        event_log.read(),
        Registry(str(folder / "registry")),
        preset("default"),
        FitLimits(options.seed, BOOTSTRAP_EPOCHS),
        gap_ms=int(Settings().session.gap_seconds * 1000),
        device=select_device(os.environ.get(f"{PREFIX}DEVICE", "auto")),
    )
    if outcome is None or outcome.version is None:
        raise NextclickError(f"no first model: {outcome.reason if outcome else 'stopped'}")
    seconds = time.monotonic() - began
    console.print(f"model {outcome.version} after {seconds:.0f} s: {outcome.reason}")
    return [str(item) for item in frame["item_id"].value_counts().index[:K]]


def _trainer_settings() -> dict[str, str]:
    return {
        f"{PREFIX}TRAINER__EVERY_SECONDS": "8",
        f"{PREFIX}TRAINER__FLUSH_SECONDS": "1",
        f"{PREFIX}TRAINER__MAX_EPOCHS": str(RETRAIN_EPOCHS),
        f"{PREFIX}TRAINER__TORCH_THREADS": str(_fit_threads()),
        # Simulated shoppers click as fast as --rate demands.
        f"{PREFIX}CLICKS__MAX_PER_MINUTE": "0",
    }


def _fit_threads() -> int:
    """Half the cores: with all of them, the fit competes with the other processes, and its threads
    wait for each other."""
    return max(1, (os.cpu_count() or 1) // 2)


@contextlib.contextmanager
def _interrupts_as_event() -> Iterator[threading.Event]:
    """While active, Ctrl-C and SIGTERM only set the yielded event, so that they cannot interrupt
    `Watcher.update`, which would lose answers."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stop.set()) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _show(
    services: Processes,
    watcher: Watcher,
    content: _TableContent,
    console: Console,
    stop: threading.Event,
) -> None:
    """Refresh the table until the simulator ends or `stop` is set."""
    if console.is_terminal:
        with LiveDisplay(console=console, refresh_per_second=4) as display:
            while not _watch_for(1.0, services, watcher, stop):
                table = Table(title="nextclick", show_header=False, min_width=46)
                for name, value in content.now().items():
                    table.add_row(name, value)
                display.update(table)
    else:
        while not _watch_for(5.0, services, watcher, stop):
            console.print("  ".join(f"{name} {value}" for name, value in content.now().items()))


def _watch_for(
    seconds: float, services: Processes, watcher: Watcher, stop: threading.Event
) -> bool:
    """Watch for `seconds`; returns True at once if the simulator has ended or `stop` is set."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        services.check()
        watcher.update()
        if services.ended("simulator") or stop.wait(UPDATE_SECONDS):
            return True
    return False


class _TableContent:
    """The content of the live table."""

    def __init__(self, live: StreamMetrics, kafka: KafkaSettings) -> None:
        self._live = live
        self._lag = LagMonitor(kafka, kafka.clicks_topic, Settings().worker.group_id)
        self._last = (time.monotonic(), 0, 0)

    def now(self) -> dict[str, str]:
        clicks_rate, answers_rate = self._rates()
        latency = self._live.latency_ms(newest=2000)
        hits = self._live.hit_rates()
        return {
            "clicks/s": f"{clicks_rate:,.0f}",
            "recommendations/s": f"{answers_rate:,.0f}",
            "latency p50 / p99": f"{latency.get('p50', 0):.0f} / {latency.get('p99', 0):.0f} ms",
            "lag": self._lag_text(),
            "model": self._live.versions[-1] if self._live.versions else "–",
            "swaps": str(self._live.swaps),
            "HR@10 model": f"{hits.get('model', 0):.3f}",
            "HR@10 popularity": f"{hits.get('popularity', 0):.3f}",
            "HR@10 ceiling": f"{hits.get('ceiling', 0):.3f}",
        }

    def _lag_text(self) -> str:
        try:
            return f"{self._lag.lag():,}"
        except Unavailable:  # on a busy machine; the next look will tell
            return "–"

    def _rates(self) -> tuple[float, float]:
        now = (time.monotonic(), len(self._live.clicks), len(self._live.answered))
        seconds = max(1e-9, now[0] - self._last[0])
        rates = (now[1] - self._last[1]) / seconds, (now[2] - self._last[2]) / seconds
        self._last = now
        return rates


def _summarise(
    live: StreamMetrics, kafka: KafkaSettings, options: Options, console: Console
) -> None:
    dead_letters = read_offsets(kafka, kafka.dlq_topic, retained_offsets(kafka, kafka.dlq_topic))
    dead_lettered = sum(1 for _ in dead_letters)
    summary = {
        "clicks_sent": len(live.clicks),
        "recommendations_received": live.answered.total(),
        "missing": live.missing,
        "duplicates": live.duplicates,
        "dead_lettered": dead_lettered,
        "latency_ms": live.latency_ms(),
        "swaps": live.swaps,
        "model_versions": live.versions,
        "hit_rate_at_10": live.hit_rates(),
    }
    hit_rates = [f"{name} {rate:.1%}" for name, rate in live.hit_rates().items()]
    latencies = [f"{name} {milliseconds} ms" for name, milliseconds in live.latency_ms().items()]
    rows = {
        "clicks sent": f"{len(live.clicks):,}",
        "recommendations": f"{live.answered.total():,}",
        "missing": f"{live.missing:,}",
        "duplicates": f"{live.duplicates:,}",
        "dead letters": f"{dead_lettered:,}",
        "latency": ", ".join(latencies),
        "swaps": f"{live.swaps:,}",
        "models": "\n".join(live.versions),
        "HR@10": ", ".join(hit_rates),
    }
    table = Table(title="summary", show_header=False, min_width=46)
    for name, text in rows.items():
        table.add_row(name, text)
    console.print(table)
    if options.json_file is not None:
        options.json_file.write_text(json.dumps(summary, indent=2) + "\n")
        console.print(f"written to {options.json_file}")
