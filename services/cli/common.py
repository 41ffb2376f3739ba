"""Shared by all commands: the Typer application, the console, settings, signals and errors."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from nextclick.shared.errors import NextclickError
from nextclick.shared.runtime import logs
from nextclick.shared.runtime.environment import secrets
from nextclick.shared.runtime.extras import missing_extra
from nextclick.shared.runtime.masking import printable, redact
from nextclick.shared.runtime.terminal import make_console

if TYPE_CHECKING:
    from nextclick.shared.runtime.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Streaming session recommender: clicks in on Kafka, next-click recommendations out.",
)
console = make_console()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"nextclick {metadata.version('nextclick')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


WORLD = typer.Option(help="missions (shoppers with intent) or source (the plain world).")


def cell(text: str) -> Text:
    """Untrusted text as a table cell: markup and control characters are not interpreted."""
    return Text(printable(text))


def read_settings() -> Settings:
    """Read the settings from the environment; imported here, so that --help stays fast."""
    from nextclick.shared.runtime.settings import Settings

    return Settings.from_environment()


def start(name: str, *, tool: bool = False) -> tuple[Settings, threading.Event]:
    """Read the settings, set up logging; returns them and an event that SIGTERM and SIGINT set.

    tool: a command that a person runs; with log_format auto its log is text, even if stderr is not
    a terminal.
    """
    settings = read_settings()
    if not settings.kafka.client_id:
        kafka = settings.kafka.model_copy(update={"client_id": f"nextclick-{name}"})
        settings = settings.model_copy(update={"kafka": kafka})
    log_format = "text" if tool and settings.log_format == "auto" else settings.log_format
    logs.set_up(name, settings.log_level, secrets(), log_format)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return settings, stop


@contextlib.contextmanager
def missing_extras_as_errors() -> Iterator[None]:
    """Turn the missing module of an extra into a ConfigurationError that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (extra_error := missing_extra(error)) is None:
            raise
        raise extra_error from None


@contextlib.contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Print a NextclickError as one line on stderr (or log it, if the log is JSON); exit code 2."""
    try:
        with missing_extras_as_errors():
            yield
    except NextclickError as error:
        if logs.is_json():
            logging.getLogger("nextclick").critical("%s", error)
        else:
            typer.echo(f"nextclick: {printable(redact(secrets(), str(error)))}", err=True)
        raise SystemExit(2) from None
