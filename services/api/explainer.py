"""Explains lists, which takes much longer than to make them, in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nextclick.services.api.messages import Contribution, ExplanationResponse
from nextclick.services.api.recommender import NoModel
from nextclick.shared.items import ItemStates
from nextclick.shared.model.explain import explain
from nextclick.shared.redis import SessionStore
from nextclick.shared.registry import ModelSlot

MAX_WAITING = 16
"""Most waiting requests: an explanation takes as long as some ten lists."""


@dataclass(frozen=True, slots=True)
class ExplanationRequest:
    """A history to explain, or if it is empty, the user whose history to read from Redis."""

    user_id: str | None
    history: list[str]


class Explainer:
    """Explains the lists of the served model. Used by one thread."""

    def __init__(
        self, slot: ModelSlot, sessions: SessionStore, items: Callable[[], ItemStates] = ItemStates
    ) -> None:
        self._slot = slot
        self._items = items
        self._sessions = sessions

    def answer(self, requests: Sequence[ExplanationRequest]) -> list[ExplanationResponse]:
        """Explain, in order. Raises NoModel, or Unavailable if Redis does not answer."""
        return [self._explain(request) for request in requests]

    def _explain(self, request: ExplanationRequest) -> ExplanationResponse:
        model = self._slot.model
        if model is None:
            raise NoModel
        history = request.history
        if request.user_id is not None and not history:
            history = self._sessions.read([request.user_id])[0].history
        explained = explain(model.scorer, history, withheld=self._items().withheld)
        return ExplanationResponse(
            model_version=model.name,
            history=explained.history,
            items=[
                Contribution(item_id=item.item_id, score=item.score, contributions=row)
                for item, row in zip(explained.items, explained.contributions, strict=True)
            ],
        )
