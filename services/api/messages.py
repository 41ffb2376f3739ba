"""Request and response bodies of the HTTP service, as in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from nextclick.shared.profiles import Profile
from nextclick.shared.schemas import (
    MAX_ID_LENGTH,
    DrawnItems,
    EpochMillis,
    ExperimentArm,
    Identifier,
    Item,
    KeptOutItems,
    RelatedBasis,
    RelatedItem,
    ScoredItem,
    Whole,
)

MAX_HISTORY = 100
"""Longest history in a request; the model uses the newest ten items."""

MAX_K = 100
"""Longest list."""

MAX_BATCH = 64
"""Most lists in one request."""

MAX_ITEMS = 1000
"""Most items in one request."""

_ID_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH},
        {"type": "integer"},
    ],
    "description": "text, or an integer, which is taken as text",
}


def _encodable(text: str) -> str:
    # JSON can escape half of a surrogate pair; the decoder of the topic refuses it, too.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid Unicode text") from None
    return text


Text = Annotated[str, AfterValidator(_encodable)]
Id = Annotated[
    Identifier, AfterValidator(_encodable), Whole, WithJsonSchema(_ID_SCHEMA, mode="validation")
]


ListFallback = Literal["cold_start", "unknown_items", "not_finite", "sessions_unavailable"]
"""The worker's fallbacks, and sessions_unavailable: Redis could not be read."""


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _ListBody(_Body):
    k: Annotated[int, Field(strict=True, ge=1, le=MAX_K), Whole] | None = Field(
        None, description="length of the list"
    )
    exclude_seen: bool | None = Field(
        None, strict=True, description="leave out the history's items"
    )
    category: Annotated[Text, Field(min_length=1, max_length=MAX_ID_LENGTH)] | None = Field(
        None, description="only items of this category"
    )
    profile: Annotated[Text, Field(max_length=64)] | None = Field(
        None, description="name of a profile of NEXTCLICK_PROFILES, whose constraints hold"
    )
    constraints: Profile | None = Field(
        None, description="constraints that hold for this list, too; its pins come first"
    )


class HistoryRequest(_ListBody):
    """A request for recommendations after a history, without a user id."""

    history: list[Id] = Field(
        max_length=MAX_HISTORY, description="item ids, oldest first; the newest ten count"
    )


class BatchedRequest(_ListBody):
    """One of several requests: after a history, or if it is empty, for a user."""

    history: list[Id] = Field([], max_length=MAX_HISTORY, description="item ids, oldest first")
    user_id: Id | None = Field(None, description="whose session to read")


class BatchRequest(_Body):
    """A request for several lists."""

    requests: list[BatchedRequest] = Field(min_length=1, max_length=MAX_BATCH)


class ClickRequest(BaseModel):
    """A click. Other fields are ignored, as on the topic."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    user_id: Id
    item_id: Id
    event_id: Annotated[Text, Field(min_length=1, max_length=64)] | None = Field(
        None,
        description="unique per click; generated if missing, but then a click that is sent again "
        "after an error counts twice",
    )
    timestamp: Annotated[EpochMillis, Whole] | None = Field(
        None, description="event time, milliseconds since 1970; now if missing"
    )
    event_type: Text = Field("click", min_length=1, max_length=64)


class Recommendations(BaseModel):
    """A recommendation list, with the model version and the history behind it."""

    user_id: str | None = Field(description="null for a history that came with the request")
    items: list[ScoredItem] = Field(
        description="best first; score is the probability that the item is clicked next, over "
        "the whole catalogue"
    )
    model_version: str
    history: list[str] = Field(description="what was scored, oldest first; ten items at most")
    fallback: ListFallback | None = Field(
        description="null, or why the list is the most clicked items, not the model's"
    )
    profile: str | None = Field(
        None, description="name@digest of the profile: its name and 12 digits for its content"
    )
    shortened_by: dict[str, int] | None = Field(
        None,
        description="null, or why the list is shorter than asked for: constraint → how many of the "
        "model's items it left out",
    )
    experiment: ExperimentArm | None = Field(
        None, description="null, or the live experiment that runs, and the arm of the user"
    )
    exploration: DrawnItems | None = Field(
        None, description="null, or which places of the list were drawn, and how likely each was"
    )
    kept_out: KeptOutItems | None = Field(
        None, description="null, or what the user's own clicks kept out, as a profile asks for it"
    )


class SimilarItems(BaseModel):
    """The items that are similar to one, with the model version behind the list."""

    item_id: str
    items: list[RelatedItem] = Field(
        description="most similar first; score is from 0 to 1, comparable within a model version"
    )
    model_version: str
    profile: str | None = Field(
        None, description="name@digest of the profile: its name and 12 digits for its content"
    )


class BoughtTogether(SimilarItems):
    """The items that are bought together with one, with the model version behind the list."""

    basis: RelatedBasis = Field(
        description="what the list comes from: purchases, or, for an item without any, all clicks"
    )


class BatchResponse(BaseModel):
    """The lists for the requests, in their order."""

    lists: list[Recommendations]


class ClickQuery(BaseModel):
    """What to answer a click with."""

    recommend: bool = Field(
        False, description="answer with the list for the history that this click ends"
    )
    k: int | None = Field(
        None, ge=1, le=MAX_K, description="length of the list; shorter if there are fewer items"
    )
    exclude_seen: bool | None = None
    category: Annotated[Text, Field(min_length=1, max_length=MAX_ID_LENGTH)] | None = Field(
        None, description="only items of this category"
    )
    profile: Annotated[Text, Field(max_length=64)] | None = Field(
        None, description="name of a profile of NEXTCLICK_PROFILES, whose constraints hold"
    )


class ClickAccepted(BaseModel):
    """The click is on the topic."""

    event_id: str
    recommendations: Recommendations | None = Field(
        None,
        description="only with recommend=true; null if there is no list now, although the click is "
        "published: ask for the user's list later",
    )


class SessionResponse(BaseModel):
    """The current session of a user."""

    user_id: str
    history: list[str] = Field(description="oldest first; empty for an unknown user")
    last_click: int | None = Field(description="milliseconds since 1970")


class ModelSummary(BaseModel):
    """A version in the registry."""

    version: str
    created_at: str | None = Field(description="null for a version that cannot be read")
    parent: str | None
    metrics: dict[str, float]
    clicks: int | None = Field(description="number of clicks that it was trained on")


class ModelsResponse(BaseModel):
    """The versions in the registry."""

    current: str | None = Field(description="the version that the pointer names")
    serving: str | None = Field(description="the version that this process serves")
    versions: list[ModelSummary] = Field(description="newest first")


class Contribution(BaseModel):
    """A recommended item, and the contribution of each click of the history to it."""

    item_id: str
    score: float
    contributions: list[float] = Field(
        description="for each item of the history, in nats: 0.69 doubles the item's probability, "
        "-0.69 halves it"
    )


class ExplanationResponse(BaseModel):
    """Recommendations with the contributions of the history's clicks."""

    model_version: str
    history: list[str]
    items: list[Contribution]


class ItemsRequest(_Body):
    """Several items."""

    items: list[Item] = Field(min_length=1, max_length=MAX_ITEMS)


class Denied(BaseModel):
    """The items that are in no list."""

    items: list[str]


class Problem(BaseModel):
    """An error (RFC 9457, application/problem+json)."""

    type: str = Field("about:blank", description="the title is that of the HTTP status")
    title: str
    status: int
    detail: str
    errors: list[str] = Field(default_factory=list, description="one line for each invalid field")
