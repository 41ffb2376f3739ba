"""The routes about items: what they are, which of them no list holds, and what is related."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import Depends, FastAPI, Request, Response

from nextclick.services.api.components import Components
from nextclick.services.api.entity_tags import NOT_MODIFIED, unless_known
from nextclick.services.api.item_editor import Change, set_available
from nextclick.services.api.json_route import require_json
from nextclick.services.api.messages import BoughtTogether, Denied, ItemsRequest, SimilarItems
from nextclick.services.api.parameters import Category, ItemId, ProfileOfList, RelatedWanted
from nextclick.services.api.problems import Rejected, responses
from nextclick.services.api.related import RelatedKind, look_up
from nextclick.shared.items import known_item
from nextclick.shared.model.related import LISTED
from nextclick.shared.profiles import Profile, profile_id
from nextclick.shared.schemas import Item, ItemAttributes


def install(app: FastAPI, components: Components, profiles: Mapping[str, Profile]) -> None:
    """Add the routes. profiles: those that requests may name."""
    _add_related(app, components, profiles)  # before /items/{item_id}, which any path fits
    _add_items(app, components)


def _add_related(app: FastAPI, components: Components, profiles: Mapping[str, Profile]) -> None:
    """Add lists of related items: look-ups, so short that the event loop does them itself."""

    def add(
        path: str, kind: RelatedKind, answer_type: type[SimilarItems], name: str, description: str
    ) -> None:
        async def related_items(
            request: Request,
            item_id: ItemId,
            k: RelatedWanted = LISTED,
            category: Category = None,
            profile: ProfileOfList = None,
        ) -> Response:
            constraints = components.constraints(profiles, profile, category)
            states, rules = components.items.states, components.rules.rules
            found = look_up(components.slot.model, kind, item_id, k, constraints, states, rules)
            answer = answer_type.model_validate(
                {
                    "item_id": item_id,
                    "items": found.items,
                    "model_version": found.model_version,
                    "profile": None if profile is None else profile_id(profile, profiles[profile]),
                    "basis": found.basis,
                }
            )
            return unless_known(request, answer)

        app.add_api_route(
            f"/items/{{item_id:path}}/{path}",
            related_items,
            tags=["items"],
            responses={**responses(404), **NOT_MODIFIED},
            response_model=answer_type,
            name=name,
            description=description,
        )

    add(
        "similar",
        "similar",
        SimilarItems,
        "similar_items",
        "The items that are most similar to one, also to one that no list holds now.",
    )
    add(
        "bought-together",
        "bought_together",
        BoughtTogether,
        "items_bought_together",
        "The items that shoppers buy together with one.\n\n"
        "Of an item that nobody bought together with another: those that they click in the same\n"
        "session. `basis` says which.",
    )


def _add_items(app: FastAPI, components: Components) -> None:
    """Add what reads and writes the items topic."""

    def change(said: dict[str, Item | None]) -> Change:
        return lambda table: said

    @app.post("/items", status_code=204, tags=["items"], dependencies=[Depends(require_json)])
    async def put_items(body: ItemsRequest) -> None:
        """Say what several items are; each is replaced as a whole."""
        await components.edit.submit(change({item.item_id: item for item in body.items}))

    @app.get("/items/{item_id:path}", tags=["items"], responses=responses(404, 410))
    def read_item(item_id: ItemId) -> Item:
        """What the items topic says about an item."""
        item = known_item(components.items.table, item_id)
        if item is not None:
            return item
        if item_id in components.items.states.retired:
            raise Rejected(HTTPStatus.GONE, f"the item {item_id} is retired")
        raise Rejected(HTTPStatus.NOT_FOUND, f"the items topic says nothing about {item_id}")

    @app.put(
        "/items/{item_id:path}",
        status_code=204,
        tags=["items"],
        dependencies=[Depends(require_json)],
    )
    async def put_item(item_id: ItemId, body: ItemAttributes) -> None:
        """Say what an item is: the whole of it. A retired item comes back by it."""
        item = Item(**body.model_dump(exclude_unset=True) | {"item_id": item_id})
        await components.edit.submit(change({item_id: item}))

    @app.delete("/items/{item_id:path}", status_code=204, tags=["items"])
    async def retire_item(item_id: ItemId) -> None:
        """Retire an item: it is in no list within seconds, and not in the next model."""
        await components.edit.submit(change({item_id: None}))

    @app.get("/denied", tags=["items"])
    def list_denied() -> Denied:
        """The items that no list holds: those that are not available, and the retired."""
        return Denied(items=sorted(components.items.states.withheld))

    @app.put("/denied/{item_id:path}", status_code=204, tags=["items"])
    async def deny_item(item_id: ItemId) -> None:
        """Stop recommending an item for now: `available` becomes false, all else stays."""
        await components.edit.submit(set_available(item_id, False))

    @app.delete("/denied/{item_id:path}", status_code=204, tags=["items"])
    async def allow_item(item_id: ItemId) -> None:
        """Recommend an item again, also one that was retired."""
        await components.edit.submit(set_available(item_id, True))
