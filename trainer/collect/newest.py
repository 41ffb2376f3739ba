"""Finds the newest clicks of an event log, and puts clicks in order."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from deltalake import DeltaTable

from nextclick.shared.windows import IntArray

_BATCHED = 1_000_000
"""Arrivals to hold beyond those that are asked for."""


class Files(NamedTuple):
    """Statistics of a table's files, each of shape [files]."""

    rows: IntArray
    bytes: IntArray
    oldest: npt.NDArray[np.float64]
    """Oldest arrival, epoch ms; -inf if another program wrote the file without statistics."""
    newest: npt.NDArray[np.float64]
    """Newest arrival; -inf as above."""


def file_statistics(table: DeltaTable) -> Files:
    """What the table's log says about its files."""
    files = pa.table(table.get_add_actions(flatten=True))
    rows = files["num_records"].to_pandas().fillna(0).to_numpy(np.int64)

    def arrivals(statistic: str) -> npt.NDArray[np.float64]:
        if f"{statistic}.arrival" not in files.column_names:
            return np.full(len(rows), -np.inf)
        known = files[f"{statistic}.arrival"].to_pandas().astype(np.float64)
        filled: npt.NDArray[np.float64] = known.fillna(-np.inf).to_numpy(np.float64)
        return filled

    return Files(rows, files["size_bytes"].to_numpy(), arrivals("min"), arrivals("max"))


def rows_in(table: DeltaTable) -> int:
    """Number of rows, without reading them."""
    return int(file_statistics(table).rows.sum())


def arrival_of(newest: int, table: DeltaTable, dataset: ds.Dataset) -> int | None:
    """When the first of the `newest` clicks arrived (epoch ms); None: read all."""
    rows, _, oldest, _ = file_statistics(table)
    order = np.argsort(-oldest, kind="stable")
    enough = np.flatnonzero(np.cumsum(rows[order]) >= newest)
    if newest == 0 or len(enough) == 0:
        return 2**62 if newest == 0 else None
    bound = oldest[order[enough[0]]]
    newer = None if bound == -np.inf else ds.field("arrival") >= int(bound)
    kept: IntArray = np.empty(0, np.int64)
    waiting: list[IntArray] = []
    for batch in dataset.scanner(columns=["arrival"], filter=newer).to_batches():
        waiting.append(batch.column(0).to_numpy())
        if sum(map(len, waiting)) > newest + _BATCHED:
            kept, waiting = _largest(np.concatenate([kept, *waiting]), newest), []
    kept = _largest(np.concatenate([kept, *waiting]), newest)
    return int(kept.min()) if len(kept) == newest else None


def _largest(numbers: IntArray, count: int) -> IntArray:
    return numbers if len(numbers) <= count else np.partition(numbers, -count)[-count:]


def in_order(clicks: pa.Table) -> pa.Table:
    """Sorted, and of a user's clicks with one event_id the first only."""
    keys = ("arrival", "kafka_partition", "kafka_offset", "event_id")
    order = pc.sort_indices(clicks, [(key, "ascending") for key in keys]).to_numpy()
    if not np.array_equal(order, np.arange(len(order))):
        clicks = clicks.take(pa.array(order))
    # Few event ids are there twice, so only those are compared with their users.
    codes, names = pd.factorize(clicks["event_id"].to_pandas())
    if len(names) == len(codes):
        return clicks
    suspects = np.flatnonzero(np.bincount(codes)[codes] > 1)
    pairs = clicks.select(["user_id", "event_id"]).take(pa.array(suspects)).to_pandas()
    kept = np.ones(len(codes), bool)
    kept[suspects[pairs.duplicated().to_numpy()]] = False
    return clicks.filter(pa.array(kept))
