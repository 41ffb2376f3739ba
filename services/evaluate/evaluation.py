"""`nextclick evaluate`: open the data, run the methods, show and write the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console

from nextclick.services.evaluate.worlds import WORLDS
from nextclick.services.replay.frame import to_frame
from nextclick.services.replay.log import ReadOptions, load
from nextclick.services.replay.sources import find_sources
from nextclick.shared.errors import ConfigurationError
from nextclick.trainer.collect import is_event_log
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


def run(options: Options, device: torch.device, gap_ms: int, console: Console) -> None:
    """Compare and report. Raises ConfigurationError for invalid options before the first fit."""
    for option, file in (("--json", options.json), ("--html", options.html)):
        if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
            raise ConfigurationError(f"{option} {file}: is a folder, or its folder does not exist")
    if options.html is not None and find_spec("matplotlib") is None:
        raise ConfigurationError("--html needs matplotlib: pip install 'nextclick[report]'")
    if not options.methods or not options.presets:
        raise ConfigurationError("--methods and --preset need at least one name each")
    benchmark = open_data(
        options.data,
        gap_ms,
        options.reading,
        bound_users=options.bound_users,
        max_per_minute=options.max_per_minute,
    )
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


def _write(file: Path, content: str) -> None:
    try:
        file.write_text(content, "utf-8")
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written ({error})") from None
