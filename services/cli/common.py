"""What the commands share: the application, the terminal, settings and signals."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from nextclick.shared.errors import NextclickError
from nextclick.shared.runtime import logs
from nextclick.shared.runtime.environment import secrets
from nextclick.shared.runtime.extras import missing_extra
from nextclick.shared.runtime.masking import printable, redact

if TYPE_CHECKING:
    from nextclick.shared.runtime.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Streaming session recommender: clicks in on Kafka, next-click recommendations out.",
)
console = Console(soft_wrap=True)
WORLD = typer.Option(help="missions (shoppers with intent) or source (the plain world).")


def cell(text: str) -> Text:
    """Text from elsewhere in a table: what looks like markup, or steers a terminal, is none."""
    return Text(printable(text))


def read_settings() -> Settings:
    """The settings of the environment. They are imported here, so that no --help waits for them."""
    from nextclick.shared.runtime.settings import Settings

    return Settings.from_environment()


def start(name: str, *, tool: bool = False) -> tuple[Settings, threading.Event]:
    """Read the settings, set logging up, and turn SIGTERM and SIGINT into an event.

    A tool's log is text, unless the settings say otherwise: a person runs it, also where its output
    goes into a file.
    """
    settings = read_settings()
    if not settings.kafka.client_id:
        kafka = settings.kafka.model_copy(update={"client_id": f"nextclick-{name}"})
        settings = settings.model_copy(update={"kafka": kafka})
    form = "text" if tool and settings.log_format == "auto" else settings.log_format
    logs.set_up(name, settings.log_level, secrets(), form)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return settings, stop


@contextlib.contextmanager
def extras_named() -> Iterator[None]:
    """A missing package that an extra brings is a ConfigurationError that says which."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (for_a_person := missing_extra(error)) is None:
            raise
        raise for_a_person from None


@contextlib.contextmanager
def errors_as_one_line() -> Iterator[None]:
    """What a person can mend is a line on stderr, and exit code 2."""
    try:
        with extras_named():
            yield
    except NextclickError as error:
        if logs.is_json():
            logging.getLogger("nextclick").critical("%s", error)
        else:
            typer.echo(f"nextclick: {printable(redact(secrets(), str(error)))}", err=True)
        raise SystemExit(2) from None
