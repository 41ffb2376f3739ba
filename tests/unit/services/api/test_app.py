"""Routes of the HTTP service, as far as they ask no component."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import fields
from typing import Any, cast

import httpx2 as httpx
import pytest

from nextclick.services.api.access import Access, Keys
from nextclick.services.api.app import create_app
from nextclick.services.api.components import Components
from nextclick.shared.runtime import health
from nextclick.shared.runtime.settings import ApiSettings


def test_however_many_ask_a_check_that_hangs_takes_one_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Anybody may ask for /readyz, and the event loop has few threads. /healthz needs one."""
    monkeypatch.setattr(health, "WAIT_SECONDS", 0.5)
    hang = threading.Event()
    parts: dict[str, Any] = {field.name: {} for field in fields(Components)}
    parts["ready"] = {"model": hang.wait, "items": lambda: None}
    app = create_app(Components(**parts), ApiSettings(), 10, Access(Keys("")))

    async def run() -> None:
        loop = asyncio.get_running_loop()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            ready = [asyncio.create_task(client.get("/readyz")) for _ in range(200)]
            await asyncio.sleep(0.1)
            began = loop.time()
            assert (await client.get("/healthz")).status_code == 200
            assert loop.time() - began < 5  # it would be a quarter of a minute
            assert {answer.status_code for answer in await asyncio.gather(*ready)} == {503}

    try:
        asyncio.run(asyncio.wait_for(run(), 60))
    finally:
        hang.set()


def test_a_request_with_thousands_of_faults_is_told_some_of_them() -> None:
    parts: dict[str, Any] = {field.name: {} for field in fields(Components)}
    app = create_app(Components(**parts), ApiSettings(), 10, Access(Keys("")))
    body = {"history": ["a"], **{f"x{number}": 1 for number in range(5000)}}

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return cast(httpx.Response, await client.post("/recommendations", json=body))

    answer = asyncio.run(run())
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 21
    assert answer.json()["errors"][-1] == "4980 more"
    assert len(answer.content) < 3000
