"""The clicks of a file as a pandas frame. Not in `log`, because replay works without pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nextclick.services.replay.log import ClickFile


def to_frame(clicks: ClickFile) -> pd.DataFrame:
    """A frame with columns event_id, user_id, item_id, timestamp (epoch ms) and event_type."""
    return pd.DataFrame(
        {
            "event_id": [clicks.event_id(place) for place in range(len(clicks))],
            "user_id": np.array(clicks.user_ids, object)[clicks.users],
            "item_id": np.array(clicks.item_ids, object)[clicks.items],
            "timestamp": clicks.times,
            "event_type": np.array(clicks.event_types, object)[clicks.types],
        }
    )
