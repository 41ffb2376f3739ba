"""`nextclick evaluate`: open the data, run the methods, show and write the report."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from tqdm import tqdm

from nextclick.services.evaluate import stream_report
from nextclick.services.evaluate.stream import (
    Deltas,
    Retraining,
    parse_every,
    prequential,
    update_positions,
)
from nextclick.services.evaluate.worlds import WORLDS
from nextclick.services.replay.frame import to_frame
from nextclick.services.replay.log import ReadOptions, load
from nextclick.services.replay.sources import find_sources
from nextclick.shared.data_problems import Problem
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.item_features import MAX_COLD_ITEMS, Contents
from nextclick.shared.registry import Registry
from nextclick.trainer.collect import EventLog, is_event_log
from nextclick.trainer.compare.benchmark import (
    Benchmark,
    bounded,
    judgeable_log,
    open_event_log,
    open_session_files,
)
from nextclick.trainer.compare.methods import MethodOptions, method_factories
from nextclick.trainer.compare.report import terminal
from nextclick.trainer.compare.report.compare import compare
from nextclick.trainer.compare.report.environment import environment
from nextclick.trainer.compare.report.summary import summarise
from nextclick.trainer.data import weighted
from nextclick.trainer.data.session_files import is_session_folder
from nextclick.trainer.fit.presets import preset
from nextclick.trainer.retrain import FitLimits, learnable_contents


@dataclass(frozen=True)
class Options:
    """The options of the command line."""

    data: str
    reading: ReadOptions
    methods: Sequence[str]
    presets: Sequence[str]
    seeds: int
    max_seconds: float
    json: Path | None
    html: Path | None
    bound_users: bool | None = None
    """Whether clicks of bots do not count, as in a retraining; None: in an event log."""
    max_per_minute: int = 0
    """What of one user and minute counts then; 0: all."""
    contents: Contents | None = None
    """What is known about items; None: as much as a simulated world says, else nothing."""
    max_cold_items: int = MAX_COLD_ITEMS
    """See `learnable_contents`."""


@dataclass(frozen=True)
class StreamOptions:
    """The options of the command line with --stream."""

    data: str
    reading: ReadOptions
    preset: str
    every: str
    """See `parse_every`."""
    window_clicks: int
    limits: FitLimits
    max_per_minute: int
    json: Path | None
    plot: Path | None
    deltas: int = 0
    """Clicks between two deltas; 0: none."""


def names(listed: str) -> list[str]:
    """Split "a, b" into its names."""
    return [name for name in (part.strip() for part in listed.split(",")) if name]


def open_data(
    data: str,
    gap_ms: int,
    reading: ReadOptions,
    *,
    bound_users: bool | None = None,
    max_per_minute: int = 0,
) -> Benchmark:
    """Open a world by name, an event log, a folder of session files, or whatever `load` reads.

    gap_ms: the pause after which a new session starts. reading: how to read files of clicks.
    bound_users, max_per_minute: see Options. Raises ConfigurationError if there is none of this.
    """
    path = Path(data)
    has_no_users = data in WORLDS or (path.is_dir() and is_session_folder(path))
    if bound_users and has_no_users:
        raise ConfigurationError("--bound-users goes with an event log or files of clicks")
    if data in WORLDS:
        return WORLDS[data]()
    if is_event_log(data):
        bound = None if bound_users is False else max_per_minute
        return open_event_log(data, gap_ms, reading.event_weights, reading.label_weights, bound)
    if has_no_users:
        return open_session_files(path)
    try:
        find_sources([data])
    except ConfigurationError as error:
        raise ConfigurationError(
            f"DATA {error}; it can be a simulated world ({', '.join(WORLDS)}), an event log, a "
            "folder with train_sessions.txt and test_sessions.txt, or files as for import"
        ) from None
    clicks = load(data, reading)
    frame = weighted(to_frame(clicks), reading.event_weights, reading.label_weights)
    name = path.resolve().stem
    frame, left_out = bounded(frame, max_per_minute if bound_users else None, name)
    return Benchmark(name, judgeable_log(frame, gap_ms, data), [*clicks.problems, *left_out])


def run_stream(options: StreamOptions, device: torch.device, gap_ms: int, console: Console) -> None:
    """Predict a log click by click, and report. Raises ConfigurationError for invalid options."""
    _check_files(("--json", options.json), ("--plot", options.plot))
    if options.plot is not None:
        _check_matplotlib("--plot")
    every, recipe = parse_every(options.every), preset(options.preset)
    if recipe.sampling != "temporal":
        raise ConfigurationError(f"--preset {recipe.name} trains on its test data: not by --stream")
    clicks, problems = _open_clicks(options.data, options.reading)
    times = clicks["timestamp"].to_numpy(np.int64)
    updates = update_positions(times, every)
    if len(updates) == 0:
        raise ConfigurationError(
            f"{options.data}: its {len(clicks):,} clicks end before the first update; --every "
            f"{options.every} is too long"
        )
    with tempfile.TemporaryDirectory() as folder:
        update = Retraining(
            Registry(folder),
            recipe,
            options.limits,
            gap_ms,
            device,
            options.window_clicks,
            options.max_per_minute,
            options.reading.event_weights,
            options.reading.label_weights,
        )
        name = f"{update.name}, deltas"
        deltas = Deltas(options.deltas, name, update.learn) if options.deltas else None
        stretches = list(
            tqdm(
                prequential(clicks, gap_ms, updates, update, deltas),
                total=len(updates),
                unit="update",
                leave=False,
                disable=None,
            )
        )
    report = stream_report.summarise(
        stretches,
        update.outcomes,
        times,
        data=Path(options.data).resolve().stem,
        every=options.every if every.ms else f"{every.clicks:,} clicks",
        problems=[str(problem) for problem in problems],
        environment=environment(device),
        deltas=options.deltas,
    )
    stream_report.show(report, console)
    if options.json is not None:
        _write(options.json, report.model_dump_json(indent=2))
    if options.plot is not None:
        stream_report.plot(report, options.plot)


def _open_clicks(data: str, reading: ReadOptions) -> tuple[pd.DataFrame, list[Problem]]:
    """An event log, or files as for import, as clicks in order of arrival, weighted."""
    path = Path(data)
    if data in WORLDS or (path.is_dir() and is_session_folder(path)):
        raise ConfigurationError(
            "--stream needs clicks in their order: an event log, or files as for import"
        )
    problems: list[Problem] = []
    if is_event_log(data):
        frame = EventLog(data, read_only=True).read()
    else:
        loaded = load(data, reading)
        frame, problems = to_frame(loaded), loaded.problems
    return weighted(frame, reading.event_weights, reading.label_weights), problems


def run(options: Options, device: torch.device, gap_ms: int, console: Console) -> None:
    """Compare and report. Raises ConfigurationError for invalid options before the first fit."""
    _check_files(("--json", options.json), ("--html", options.html))
    if options.html is not None:
        _check_matplotlib("--html")
    if not options.methods or not options.presets:
        raise ConfigurationError("--methods and --preset need at least one name each")
    benchmark = open_data(
        options.data,
        gap_ms,
        options.reading,
        bound_users=options.bound_users,
        max_per_minute=options.max_per_minute,
    )
    if options.contents is not None:
        known = learnable_contents(options.contents, benchmark.log, options.max_cold_items)
        benchmark = replace(benchmark, contents=known)
    chosen = method_factories(
        options.methods,
        benchmark,
        MethodOptions(options.presets, device, options.max_seconds or None),
    )
    seeds = list(range(options.seeds))
    report = summarise(benchmark, compare(benchmark, chosen, seeds), seeds, environment(device))
    terminal.show(report, console)
    if options.json is not None:
        _write(options.json, report.model_dump_json(indent=2))
    if options.html is not None:
        # Importing matplotlib takes a second.
        from nextclick.trainer.compare.report.page import page
        from nextclick.trainer.compare.report.plots import plots

        _write(options.html, page(report, plots(report)))


def _check_files(*files: tuple[str, Path | None]) -> None:
    """Raise ConfigurationError for an option whose file cannot be written, before the run."""
    for option, file in files:
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise ConfigurationError(f"{option} {file}: is a folder, or its folder does not exist")


def _check_matplotlib(option: str) -> None:
    if find_spec("matplotlib") is None:
        raise ConfigurationError(f"{option} needs matplotlib: pip install 'nextclick[report]'")


def _write(file: Path, content: str) -> None:
    try:
        file.write_text(content, "utf-8")
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written ({error})") from None
