"""A worker on Quix Streams: `python -m nextclick.bench.peers.quix_worker [--floor]`.

It uses the same settings and the same scorer as our worker, and needs an interpreter with
quixstreams. Every choice favours its speed: JSON to and from dictionaries, without validation and
dead letters; state on the local disk, without a changelog topic; a commit every 5 s, the default;
no model swaps.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from quixstreams import Application, State

from nextclick.bench.peers import history
from nextclick.bench.worker import Floor
from nextclick.shared.model import Scorer, select_device
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import Settings

_WARM_UP_CALLS = 20


def application(settings: Settings, scorer: Scorer, version: str) -> Application:
    """The Quix Streams application; the state of a user holds the last clicks."""
    gap_ms = int(settings.session.gap_seconds * 1000)

    def answer(click: dict[str, Any], state: State) -> dict[str, Any]:
        entries = state.get("entries", [])
        items = history.append(
            entries, click["event_id"], click["item_id"], click["timestamp"], gap_ms
        )
        state.set("entries", entries)
        (ranking,) = scorer.recommend([items])
        return {
            "event_id": click["event_id"],
            "user_id": click["user_id"],
            "items": [{"item_id": i.item_id, "score": i.score} for i in ranking.items],
            "model_version": version,
            "history": items,
            "click_timestamp": click["timestamp"],
            "scored_at": int(time.time() * 1000),
            "fallback": ranking.fallback,
            "items_offset": 0,
            "schema_version": 1,
        }

    app = Application(
        broker_address=settings.kafka.bootstrap_servers,
        consumer_group=settings.worker.group_id,
        auto_offset_reset="earliest",
        processing_guarantee="at-least-once",
        use_changelog_topics=False,
        auto_create_topics=False,
    )
    clicks = app.topic(settings.kafka.clicks_topic, value_deserializer="json")
    recommendations = app.topic(settings.kafka.recommendations_topic, value_serializer="json")
    app.dataframe(clicks).apply(answer, stateful=True).to_topic(recommendations)
    return app


def main() -> None:
    """Answer the clicks that the settings name until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--floor", action="store_true", help="with a scorer that costs nothing")
    kind = Floor if parser.parse_args().floor else Scorer
    settings = Settings.from_environment()
    torch.set_num_threads(settings.worker.torch_threads)
    registry = Registry(settings.registry.url)
    pointer = registry.pointer()
    assert pointer is not None, "the bench publishes a model first"
    checkpoint = registry.load(pointer.version)
    scorer = kind(checkpoint, select_device(settings.device), settings.worker.top_k)
    for _ in range(_WARM_UP_CALLS):
        scorer.recommend([[scorer.vocabulary.item_ids[0]]])
    application(settings, scorer, pointer.version).run()


if __name__ == "__main__":
    main()
