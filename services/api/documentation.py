"""The page /docs: Swagger UI from bundled files, so that browsers contact no other host."""

from __future__ import annotations

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
        return get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=app.title,
            swagger_js_url=f"{root}{_FILES}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{_FILES}/swagger-ui.css",
            swagger_favicon_url=f"{root}{_FILES}/favicon-32x32.png",
        )

    app.add_route("/docs", page, include_in_schema=False)  # add_route: needs no API key
