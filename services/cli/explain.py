"""`nextclick explain`: the contribution of each click to a recommendation, as a table."""

from __future__ import annotations

import contextlib
import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nextclick.shared.errors import BadRecommendation, ConfigurationError, NextclickError
from nextclick.shared.kafka import TopicReader
from nextclick.shared.kafka.schema_registry import framed_reader
from nextclick.shared.model import Explanation, Scorer, select_device
from nextclick.shared.model.explain import explain
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.masking import printable
from nextclick.shared.runtime.settings import Settings
from nextclick.shared.schemas import Recommendation, decode_recommendation

_SILENCE_SECONDS = 2.0
"""A topic without a message for this long counts as read to its end."""


def find_answer(settings: Settings, event_id: str) -> Recommendation:
    """Search the recommendations topic, up to its present end, for the answer to a click.

    Raises NextclickError if there is none.
    """
    topic = settings.kafka.recommendations_topic
    read_framed = framed_reader(settings.schema_registry, Recommendation)
    reader = TopicReader(settings.kafka, [topic])
    try:
        ahead = reader.unread()
        while ahead > 0 and (messages := reader.poll(10_000, _SILENCE_SECONDS)):
            ahead -= len(messages)
            for message in messages:
                if event_id.encode() in (message.value or b""):
                    with contextlib.suppress(BadRecommendation):  # not from a worker
                        answer = decode_recommendation(message.value, message.headers, read_framed)
                        if answer.event_id == event_id:
                            return answer
    finally:
        reader.close()
    raise NextclickError(f"the topic {topic} holds no answer to the event {event_id}")


def run(
    settings: Settings, event_id: str | None, history: list[str], version: str | None
) -> tuple[str, Explanation]:
    """Explain the answer to an event with the model version that gave it, or a history.

    version: for a history; None: the current version. Returns the version and the explanation.
    """
    registry = Registry(settings.registry.url)
    if event_id is not None:
        answer = find_answer(settings, event_id)
        version, history = answer.model_version, answer.history
    elif not history:
        raise ConfigurationError("explain takes an EVENT_ID or --history")
    if version is None:
        pointer = registry.pointer()
        if pointer is None:
            raise NextclickError(f"the registry {registry.url} has no model yet")
        version = pointer.version
    device = select_device(settings.device)
    scorer = Scorer(registry.load(version), device, settings.worker.top_k)
    return version, explain(scorer, history)


def show(version: str, explanation: Explanation, console: Console) -> None:
    """Print one row per recommendation, one column per click."""
    title = f"model {version}; by how much each click multiplied the probability"
    table = Table(title=Text(printable(title)))
    table.add_column("recommended")
    table.add_column("score", justify="right")
    for place, item_id in enumerate(explanation.history):
        # Text, because markup in an untrusted item id must not be interpreted.
        table.add_column(Text(printable(f"{place + 1}. {item_id}")), justify="right")
    for item, row in zip(explanation.items, explanation.contributions, strict=True):
        table.add_row(Text(printable(item.item_id)), f"{item.score:.4f}", *map(_factor, row))
    console.print(table)


def _factor(nats: float) -> str:
    """A contribution as a factor on the probability: ln 2 nats is ×2."""
    if nats == 0:
        return "–"
    text = f"×{math.exp(nats):.3g}"
    colour = "green" if nats > 0.1 else "red" if nats < -0.1 else "dim"
    return f"[{colour}]{text}[/]"
