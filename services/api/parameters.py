"""Parameters that routes share: of their paths and of their queries."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path, Query

from nextclick.services.api.messages import MAX_K
from nextclick.shared.model.related import MAX_RELATED
from nextclick.shared.schemas import MAX_ID_LENGTH

UserId = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH)]
ItemId = Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH)]
ItemsWanted = Annotated[
    int, Query(ge=1, le=MAX_K, description="length of the list; shorter if there are fewer items")
]
RelatedWanted = Annotated[
    int, Query(ge=1, le=MAX_RELATED, description="length of the list; it may be shorter")
]
Category = Annotated[
    str | None,
    Query(min_length=1, max_length=MAX_ID_LENGTH, description="only items of this category"),
]
ProfileOfList = Annotated[
    str | None,
    Query(
        max_length=64, description="name of a profile of NEXTCLICK_PROFILES, whose constraints hold"
    ),
]
ItemIds = Annotated[str, Query(min_length=1, max_length=MAX_ID_LENGTH)]
