"""`nextclick forget`, and `dlq redrive`, which skips the dead letters of forgotten users."""

from __future__ import annotations

import json as json_format
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nextclick.services.cli.common import app, missing_extras_as_errors, read_settings
from nextclick.services.dlq.cli import REASON
from nextclick.services.dlq.cli import app as dlq_app
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.runtime.masking import masked_url, printable

if TYPE_CHECKING:
    from nextclick.services.dlq.dead_letters import IsForgotten
    from nextclick.shared.runtime.settings import Settings

_HTTP_WAIT_SECONDS = 10.0
"""Whoever asks by HTTP waits for the workers so long at most."""


@app.command()
def forget(
    user: Annotated[str, typer.Argument(help="The user_id, as in the clicks.")],
    wait: Annotated[
        float, typer.Option(help="Seconds to wait for workers that are behind.", min=0)
    ] = 60,
    remove_models: Annotated[
        bool,
        typer.Option(
            "--remove-models",
            help="Remove the model versions that may know the user: all but the served one now, "
            "that one after the next retraining. No rollback can go back to them.",
        ),
    ] = False,
    count_messages: Annotated[
        bool,
        typer.Option("--count-messages", help="Count the user's messages on all topics: slow."),
    ] = False,
    certificate: Annotated[
        Path | None, typer.Option(help="Write the certificate here; default: forgotten-HASH.json.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print the certificate as JSON, not as text.")
    ] = False,
) -> None:
    """Forget a user: sessions, logged clicks, and what will still arrive; ends with a certificate.

    Run it where the event log is. Exit code 1 if anything remains to be done: the certificate says
    what, and the command may be run again at any time.

    Example: nextclick forget user-4711 --certificate user-4711.json
    """
    from nextclick.services.forget import forget as forgetting

    settings = read_settings()
    forgetting.check(user)
    if certificate is not None:
        _write(certificate, "")  # before anything is done
    logging.disable()  # librdkafka's log says what the certificate says
    done = forgetting.run(
        settings,
        user,
        wait_seconds=wait,
        remove_models=remove_models,
        count_messages=count_messages,
    )
    text = json_format.dumps(done.to_json(), indent=2)
    file = certificate or Path(f"forgotten-{(done.user_hash or 'unknown')[:16]}.json")
    typer.echo(text if json else "\n".join(map(printable, done.lines())))
    _write(file, text + "\n")
    if not json:
        typer.echo(f"certificate {file}")
    if not done.complete:
        raise typer.Exit(1)


@dlq_app.command()
def redrive(
    reason: Annotated[str | None, REASON] = None,
    limit: Annotated[int, typer.Option(help="Redrive at most this many; 0 = all.", min=0)] = 0,
    everything: Annotated[
        bool, typer.Option("--all", help="Start at the beginning, with those redriven before.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print what would be done.")
    ] = False,
) -> None:
    """Send dead letters to the clicks topic again, each one once.

    Starts after the last redrive for the same reason. Dead letters that no worker can accept (cut,
    empty, oversized) are skipped, and those of users who were forgotten since, if the event log is
    here. One that is invalid again becomes a new dead letter, marked as redriven. Key and value are
    unchanged, so the event_id is the same, too.

    Example: nextclick dlq redrive --reason invalid --dry-run
    """
    from nextclick.services.dlq import dead_letters
    from nextclick.services.dlq.redrive import run

    reasons = dead_letters.select_reasons(reason)
    settings = read_settings()
    redriven, skipped = run(
        settings,
        reasons,
        from_beginning=everything,
        limit=limit,
        dry_run=dry_run,
        is_forgotten=_is_forgotten(settings.trainer.event_log),
    )
    would = "would be " if dry_run else ""
    typer.echo(f"{redriven:,} {would}redriven to {settings.kafka.clicks_topic}")
    for why, count in skipped.most_common():
        typer.echo(f"{count:,} {would}skipped: {why}")
    if not redriven and not skipped and not everything:
        typer.echo("no new dead letters since the last redrive; --all redrives from the beginning")


def _is_forgotten(url: str) -> IsForgotten:
    """Asks the tombstones of an event log, if it is here. Raises Unavailable."""
    from nextclick.services.dlq.dead_letters import of_nobody

    if find_spec("deltalake") is None:
        return of_nobody
    from nextclick.trainer.collect import EventLog, is_event_log

    if "://" not in url and not is_event_log(url):
        typer.echo(f"who was forgotten is not known here: no event log at {masked_url(url)}")
        return of_nobody
    return EventLog(url, read_only=True).tombstones().forbid


def forget_by_http(settings: Settings, user_id: str) -> dict[str, Any]:
    """What the HTTP service does for DELETE /users/{user_id}; returns the certificate."""
    with missing_extras_as_errors():
        from nextclick.services.forget import forget as forgetting

        return forgetting.run(settings, user_id, wait_seconds=_HTTP_WAIT_SECONDS).to_json()


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigurationError(f"--certificate {file} cannot be written ({error})") from None
