"""Entity tags (RFC 9110): a client that has a response already is not sent it again."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from fastapi import Request, Response
from pydantic import BaseModel

NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "Not Modified: as the ETag in If-None-Match says, you have it"}
}
"""The OpenAPI description of an operation's response without a body."""


def unless_known(request: Request, answer: BaseModel) -> Response:
    """The response with `answer`, or 304 if the request's If-None-Match has its tag.

    The tag is a hash of the body, so it changes with the model version, the history and the rules.
    """
    content = answer.__pydantic_serializer__.to_json(answer)
    tag = f'"{blake2b(content, digest_size=12).hexdigest()}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    known = request.headers.get("if-none-match", "")
    # A proxy that compresses makes a tag weak: W/"…".
    if known == "*" or tag in (part.strip().removeprefix("W/") for part in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type="application/json")
