"""The page /docs: Swagger UI from bundled files, so that browsers contact no other host."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.responses import HTMLResponse

_FILES = "/docs/files"


def install(app: FastAPI) -> None:
    """Add the page and its files to an app that was made with docs_url=None and redoc_url=None."""
    app.mount(_FILES, StaticFiles(directory=Path(__file__).parent / "swagger_ui"))

    async def page(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "").rstrip("/")
        html = get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=app.title,
            swagger_js_url=f"{root}{_FILES}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{_FILES}/swagger-ui.css",
            swagger_favicon_url=f"{root}{_FILES}/favicon-32x32.png",
        )
        html.headers["Content-Security-Policy"] = _policy(bytes(html.body).decode())
        return html

    app.add_route("/docs", page, include_in_schema=False)


def _policy(html: str) -> str:
    """What the page may load: our files, and the scripts that stand in it now, by their hashes."""
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    hashes = [f"'sha256-{b64encode(sha256(s.encode()).digest()).decode()}'" for s in scripts]
    return (
        f"default-src 'none'; script-src 'self' {' '.join(hashes)}; connect-src 'self'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
