"""Reads clicks into a pandas frame, validates frames of clicks, and reads items."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

from nextclick.services.items.files import read_item_files
from nextclick.services.replay.frame import to_frame
from nextclick.services.replay.log import ReadOptions, load
from nextclick.shared.data_problems import Problems
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.schemas import Item

COLUMNS = ["user_id", "item_id", "timestamp"]


def read_clicks(
    path: str | PathLike[str],
    *,
    format: str = "auto",
    columns: Mapping[str, str] | None = None,
    time_unit: str = "auto",
    encoding: str = "utf-8",
    event_weights: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Read a file of clicks, in any format that `nextclick import` knows, or an event log's folder.

    columns: {"user": …, "item": …, "time": …, "type": …}, the names of the file's columns, if they
    are not common ones. time_unit: auto, s, ms, us, ns or iso. event_weights: as for `fit`; events
    of weight 0 are left out. These, `format` and `encoding` apply to files only.

    Returns columns event_id, user_id, item_id (text), timestamp (epoch ms, int64) and event_type:
    the clicks of a file sorted by time, those of an event log in order of arrival. Invalid lines of
    a file are left out, with a warning for each kind of error. Raises ConfigurationError if the
    path cannot be read or holds no click.
    """
    path = Path(path)
    if path.is_dir():
        # Importing it loads the table's library.
        from nextclick.trainer.collect import EventLog

        frame = EventLog(str(path), read_only=True).read()
        if frame.empty:
            raise ConfigurationError(f"{path} holds no click; an event log is a Delta table")
        return frame
    options = ReadOptions(
        format=format,
        mapping=columns or {},
        time_unit=time_unit,
        encoding=encoding,
        event_weights=event_weights or {},
    )
    clicks = load(path, options)
    for problem in clicks.problems:
        warnings.warn(str(problem), stacklevel=2)
    return to_frame(clicks)


def read_items(path: str | PathLike[str]) -> dict[str, Item]:
    """Read a file of items, as `nextclick items load` does: item id → item, in the file's order.

    What is no item is left out, with a warning for each kind of error. Raises ConfigurationError if
    the path cannot be read.
    """
    problems = Problems()
    items = read_item_files([str(path)], problems)
    for problem in problems.listed():
        warnings.warn(str(problem), stacklevel=2)
    return items


def checked(clicks: pd.DataFrame) -> pd.DataFrame:
    """Validate a frame of clicks; returns its COLUMNS and event_type ("click" if it has none).

    Ids are returned as text, timestamps as epoch ms. Ids may be integers, timestamps datetimes.
    Raises ConfigurationError if a column is missing, has another type, or has missing values.
    """
    if missing := [name for name in COLUMNS if name not in clicks]:
        raise ConfigurationError(f"the clicks have no column {', '.join(missing)}")
    if gaps := [name for name in COLUMNS if clicks[name].isna().any()]:
        raise ConfigurationError(f"clicks without a value in {', '.join(gaps)}: drop them")
    timestamps = clicks["timestamp"]
    if pd.api.types.is_datetime64_any_dtype(timestamps):
        utc = pd.to_datetime(timestamps, utc=True)
        timestamps = utc.dt.as_unit("ms").astype(np.int64)
    if not pd.api.types.is_integer_dtype(timestamps):
        raise ConfigurationError("the column timestamp holds neither epoch ms (int) nor datetimes")
    return pd.DataFrame(
        {
            "user_id": clicks["user_id"].astype(str),
            "item_id": clicks["item_id"].astype(str),
            "timestamp": timestamps.astype(np.int64),
            "event_type": clicks["event_type"].astype(str) if "event_type" in clicks else "click",
        }
    )
