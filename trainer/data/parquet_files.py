"""Reads Parquet files of clicks as a log; the trainer's own log is EventLog."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from nextclick.shared.data_problems import Problem, Problems, invalid_item_id_reason
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.schemas import LATEST_TIMESTAMP
from nextclick.trainer.data.dataset import (
    INVALID_ITEM,
    ClickLog,
    Split,
    click_log,
    without_invalid_items,
)

_NEEDED = ("user_id", "item_id", "timestamp")
_READ = ("event_id", *_NEEDED)


def parquet_files(path: Path) -> list[Path]:
    """The files of a log in stream order: `path` itself, or the files in a folder."""
    if path.is_file():
        return [path]
    return sorted(path.glob("*.parquet"))


def read_clicks(path: Path, gap_ms: int) -> tuple[ClickLog, list[Problem]]:
    """Read a log, sessionise it, and split it by time; returns it with its problems.

    Raises ConfigurationError for a file that is not Parquet, or lacks a column or has another type
    in it, and for a log without training or test cases.
    """
    problems = Problems()
    frames = [_read(file, problems) for file in parquet_files(path)]
    frame = pd.concat(frames, ignore_index=True)
    if "event_id" in frame:
        named = frame["event_id"].notna()
        duplicate = named & frame.duplicated(["user_id", "event_id"])
        for _ in range(int(duplicate.sum())):
            problems.add(path.name, "duplicate event_id", "counted once")
        frame = frame[~duplicate]
    return judgeable_log(frame, gap_ms, path), problems.listed()


def judgeable_log(frame: pd.DataFrame, gap_ms: int, path: Path | str) -> ClickLog:
    """The clicks of a frame, sessionised and split. path: for errors.

    Raises ConfigurationError if there is nothing to learn from, or nothing to judge by.
    """
    log = without_invalid_items(click_log(frame, gap_ms))
    learnable = log.keep(log.split != Split.TEST)
    if len(learnable.cases(Split.TRAIN)) == 0 or len(np.unique(learnable.items)) < 2:
        raise ConfigurationError(f"{path}: no session with clicks on two items to learn from")
    if len(log.cases(Split.TEST)) == 0:
        raise ConfigurationError(f"{path}: too few clicks for a test of the newest tenth")
    return log


def _read(file: Path, problems: Problems) -> pd.DataFrame:
    """Read one file: columns user_id, item_id (INVALID_ITEM if invalid), timestamp, event_id."""
    try:
        table = pq.ParquetFile(file).read()
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"{file} cannot be read as Parquet ({reason})") from None
    if missing := [name for name in _NEEDED if name not in table.column_names]:
        raise ConfigurationError(
            f"{file} has no column {', '.join(missing)}; clicks have {', '.join(_NEEDED)}"
        )
    names = [name for name in _READ if name in table.column_names]
    frame = pd.DataFrame({name: _column(file, table, name) for name in names})
    without_user = frame["user_id"].isna() | (frame["user_id"] == "")
    without_time = ~frame["timestamp"].between(0, LATEST_TIMESTAMP)
    _report(problems, file, without_user, "click without user_id", "of no session, left out")
    _report(problems, file, without_time & ~without_user, "click without a time", "left out")

    items = frame["item_id"].fillna(INVALID_ITEM)
    flaws = items.map({item: invalid_item_id_reason(item) for item in items.unique()})
    for what in flaws.dropna().unique():
        kept = "left out; in the test a miss as a target, unknown in a history"
        _report(problems, file, flaws == what, str(what), kept)
    frame["item_id"] = items.where(flaws.isna(), INVALID_ITEM)
    return frame[~without_user & ~without_time].astype({"timestamp": np.int64})


def _column(file: Path, table: pa.Table, name: str) -> npt.NDArray[np.generic]:
    """Ids as text (None for null); timestamps as float epoch ms, which is exact (NaN for null)."""
    column = table.column(name)
    kind = column.type
    integer = pa.types.is_integer(kind)
    if name == "timestamp":
        if pa.types.is_timestamp(kind):
            column = column.cast(pa.timestamp("ms", kind.tz), safe=False).cast(pa.int64())
        elif not integer:
            raise ConfigurationError(f"{file}: column timestamp is {kind}, not epoch milliseconds")
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)
    if not (integer or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise ConfigurationError(f"{file}: column {name} is {kind}, neither text nor integers")
    return np.array(column.cast(pa.string()).to_pylist(), object)


def _report(
    problems: Problems, file: Path, flawed: pd.Series[bool], what: str, consequence: str
) -> None:
    for row in np.flatnonzero(flawed):
        problems.add(file.name, what, consequence, int(row) + 1)
