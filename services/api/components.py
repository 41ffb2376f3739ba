"""The components that the routes use."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from nextclick.services.api.batches import MicroBatcher
from nextclick.services.api.explainer import ExplanationRequest
from nextclick.services.api.item_editor import Change
from nextclick.services.api.messages import ExplanationResponse
from nextclick.services.api.problems import Rejected
from nextclick.services.api.recommender import ListAnswer, ListRequest
from nextclick.services.api.rule_book import RuleBook
from nextclick.services.api.rules import only_category
from nextclick.shared.kafka import ItemCatalogue
from nextclick.shared.messages import Headers
from nextclick.shared.profiles import Profile, unknown_profile
from nextclick.shared.redis import SessionStore
from nextclick.shared.registry import ModelSlot, Registry
from nextclick.shared.runtime.health import Check
from nextclick.shared.schemas import Click


@dataclass(frozen=True)
class Components:
    """What is made once, when the service starts."""

    recommend: MicroBatcher[ListRequest, ListAnswer]
    publish: MicroBatcher[tuple[Click, Headers], Click]
    explain: MicroBatcher[ExplanationRequest, ExplanationResponse]
    sessions: SessionStore
    slot: ModelSlot
    registry: Registry
    rules: RuleBook
    items: ItemCatalogue
    edit: MicroBatcher[Change, None]
    alive: Mapping[str, Check]
    ready: Mapping[str, Check]
    """`model` and `items` decide readiness; lists can be served without Redis and Kafka."""

    @property
    def titles(self) -> Mapping[str, str]:
        """Item id → its name for people: from the items topic, else from the catalogue."""
        return ChainMap(self.items.table.titles, self.rules.rules.catalogue.titles)

    def constraints(
        self, profiles: Mapping[str, Profile], profile: str | None, category: str | None
    ) -> list[Profile]:
        """What a request names by `profile` and `category`. Raises Rejected for what is unknown."""
        constraints = []
        if profile is not None:
            if profile not in profiles:
                raise Rejected(HTTPStatus.NOT_FOUND, unknown_profile(profile, profiles))
            constraints.append(profiles[profile])
        if category is not None:
            known = self.rules.rules.catalogue.categories, self.items.table.categories
            if not any(category in names for names in known):
                raise Rejected(
                    HTTPStatus.NOT_FOUND,
                    f"there is no category {category!r} on the items topic or in "
                    "NEXTCLICK_API__CATALOGUE",
                )
            constraints.append(only_category(category))
        return constraints
