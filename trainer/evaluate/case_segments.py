"""Segments of the test cases in which the gate compares models, too. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nextclick.shared.windows import IntArray
from nextclick.trainer.data import ClickLog
from nextclick.trainer.evaluate.metrics import most_frequent_types

NEWEST_SHARE = 0.1
"""Of a log's clicks, by arrival: `newest_clicks`."""
NEW_ITEM_SHARE = 0.2
"""A new item had its first click among the newest clicks of this share."""

Mask = npt.NDArray[np.bool_]


def case_segments(
    log: ClickLog, cases: IntArray, types: npt.NDArray[np.object_]
) -> dict[str, Mask]:
    """Name → which of the cases [M] belong to it: shape [M].

    cases: indices of clicks. types: shape [M], their event types. newest_clicks: how the model does
    now; new_items: clicks on items that came lately; short_histories: the second click of a
    session; and each frequent event type, if there are several.
    """
    order = np.arange(len(log.items)) if log.order is None else log.order
    first_click = np.full(len(log.item_ids), len(order))
    np.minimum.at(first_click, log.items, order)
    segments = {
        "newest_clicks": order[cases] >= (1 - NEWEST_SHARE) * len(order),
        "new_items": first_click[log.items[cases]] >= (1 - NEW_ITEM_SHARE) * len(order),
        "short_histories": cases - log.starts[cases] == 1,
    }
    for name in most_frequent_types(types):
        segments[name] = types == name
    return segments
