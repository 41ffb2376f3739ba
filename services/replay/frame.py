"""The clicks of a file as a frame. Apart from `log`, which replay needs: it does without pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nextclick.services.replay.log import ClickFile


def to_frame(clicks: ClickFile) -> pd.DataFrame:
    """Columns event_id, user_id, item_id, timestamp (epoch ms), as the event log has them."""
    return pd.DataFrame(
        {
            "event_id": [clicks.event_id(place) for place in range(len(clicks))],
            "user_id": np.array(clicks.user_ids, object)[clicks.users],
            "item_id": np.array(clicks.item_ids, object)[clicks.items],
            "timestamp": clicks.times,
        }
    )
