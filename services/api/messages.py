"""What goes over HTTP: requests and responses, as in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from nextclick.shared.schemas import MAX_ID_LENGTH, EpochMillis, Identifier, ScoredItem

MAX_HISTORY = 100
"""Longest history that a request may bring; the model looks at the newest ten."""

MAX_K = 100
"""Longest list."""

_ID_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH},
        {"type": "integer"},
    ],
    "description": "text, or an integer, which is taken as text",
}


def _encodable(text: str) -> str:
    # JSON can escape half of a surrogate pair; the topic's decoder refuses it as well.
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is no valid Unicode text") from None
    return text


def _whole(value: object) -> object:
    # To JSON, 3.0 is an integer as well.
    return int(value) if type(value) is float and value.is_integer() else value


Whole = BeforeValidator(_whole)
Text = Annotated[str, AfterValidator(_encodable)]
Id = Annotated[
    Identifier, AfterValidator(_encodable), Whole, WithJsonSchema(_ID_SCHEMA, mode="validation")
]


ListFallback = Literal["cold_start", "unknown_items", "not_finite", "sessions_unavailable"]
"""Those of the worker, and: Redis did not say what the user's history is."""


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HistoryRequest(_Body):
    """A history of whoever it is."""

    history: list[Id] = Field(
        max_length=MAX_HISTORY, description="item ids, oldest first; the newest ten count"
    )
    k: Annotated[int, Field(strict=True, ge=1, le=MAX_K), Whole] | None = Field(
        None, description="items wanted"
    )
    exclude_seen: bool | None = Field(
        None, strict=True, description="leave out the history's items"
    )
    category: Annotated[Text, Field(min_length=1, max_length=MAX_ID_LENGTH)] | None = Field(
        None, description="only items of this category"
    )


class ClickRequest(BaseModel):
    """A click. Other fields are ignored, as on the topic."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    user_id: Id
    item_id: Id
    event_id: Annotated[Text, Field(min_length=1, max_length=64)] | None = Field(
        None,
        description="unique per click; made here if it is missing, but then a click sent again "
        "after an error counts twice",
    )
    timestamp: Annotated[EpochMillis, Whole] | None = Field(
        None, description="when it happened, milliseconds since 1970; now if missing"
    )
    event_type: Text = Field("click", min_length=1, max_length=64)


class ClickAccepted(BaseModel):
    """The click is on the topic."""

    event_id: str


class Recommendations(BaseModel):
    """A list, and what it was made from."""

    user_id: str | None = Field(description="null for a history that came with the request")
    items: list[ScoredItem] = Field(
        description="best first; score is the probability that the item is clicked next, among "
        "the whole catalogue"
    )
    model_version: str
    history: list[str] = Field(description="what was scored, oldest first; ten items at most")
    fallback: (
        Literal["cold_start", "unknown_items", "not_finite", "sessions_unavailable"] | None
    ) = Field(description="null, or why the most clicked items answered instead of the model")


class SessionResponse(BaseModel):
    """What is held of a user."""

    user_id: str
    history: list[str] = Field(description="oldest first; empty for an unknown user")
    last_click: int | None = Field(description="milliseconds since 1970")


class ModelSummary(BaseModel):
    """A version in the registry."""

    version: str
    created_at: str | None = Field(description="null for a version that cannot be read")
    parent: str | None
    metrics: dict[str, float]
    clicks: int | None = Field(description="how many it learned from")


class ModelsResponse(BaseModel):
    """The registry."""

    current: str | None = Field(description="what the pointer names")
    serving: str | None = Field(description="what answers here")
    versions: list[ModelSummary] = Field(description="newest first")


class Contribution(BaseModel):
    """A recommended item and what speaks for it."""

    item_id: str
    score: float
    contributions: list[float] = Field(
        description="for each item of the history, in nats: 0.69 doubles the item's probability, "
        "-0.69 halves it"
    )


class ExplanationResponse(BaseModel):
    """Recommendations, explained."""

    model_version: str
    history: list[str]
    items: list[Contribution]


class Denied(BaseModel):
    """The deny list."""

    items: list[str]


class Problem(BaseModel):
    """An error (RFC 9457, application/problem+json)."""

    type: str = Field("about:blank", description="the title is that of the HTTP status")
    title: str
    status: int
    detail: str
    errors: list[str] = Field(
        default_factory=list, description="one line for each field that is wrong"
    )
