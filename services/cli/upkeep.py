"""Commands that inspect and maintain topics, sessions, models and the event log."""

from __future__ import annotations

import logging
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from nextclick.services.cli.common import app, cell, console, read_settings
from nextclick.shared.errors import CheckpointError
from nextclick.shared.runtime.environment import masked_value
from nextclick.shared.runtime.masking import masked_url, printable
from nextclick.shared.runtime.terminal import STDOUT, output, progress

if TYPE_CHECKING:  # importing it imports torch, which takes seconds
    from nextclick.shared.registry import Registry

_JSON = typer.Option(help="Write it to this file, too, as JSON; - prints nothing else.")
topics_app = typer.Typer(no_args_is_help=True, help="Kafka topics.")
sessions_app = typer.Typer(no_args_is_help=True, help="Session state in Redis.")
models_app = typer.Typer(no_args_is_help=True, help="The model registry.")
events_app = typer.Typer(no_args_is_help=True, help="The trainer's event log.")
app.add_typer(topics_app, name="topics")
app.add_typer(sessions_app, name="sessions")
app.add_typer(models_app, name="models")
app.add_typer(events_app, name="events")


@app.command()
def settings(json: Annotated[Path | None, _JSON] = None) -> None:
    """List every setting with its present value.

    Example: nextclick settings
    """
    from nextclick.shared.runtime.settings import environment_names

    read_settings()
    table = Table("variable", "value", "meaning")
    values = {}
    for name, (default, description) in environment_names().items():
        values[name] = masked_value(name, os.environ[name]) if name in os.environ else default
        table.add_row(name, cell(values[name]), description)
    output(values, json, lambda: console.print(table))


@app.command()
def doctor(json: Annotated[Path | None, _JSON] = None) -> None:
    """Look at Kafka, Redis, models and event log; exit code 1 if a service could not run.

    Prints one line for each. Changes nothing.

    Example: nextclick doctor
    """
    from nextclick.services.cli import doctor

    logging.disable()  # librdkafka's log says the same in other words
    findings = []
    for finding in doctor.examine(read_settings()):
        findings.append(finding)
        if json == STDOUT:
            continue
        color = {"ok": "green", "warning": "yellow", "error": "red"}[finding.level]
        line = Text.assemble((f"{finding.level:<8}", color), f"{finding.what}: ")
        console.print(line + cell(finding.text))
    if json is not None:
        output([finding._asdict() for finding in findings], json, lambda: None)
    if any(finding.level == "error" for finding in findings):
        raise typer.Exit(1)


@topics_app.command("create")
def topics_create() -> None:
    """Create the topics that are missing; never alter one that exists.

    Example: nextclick topics create
    """
    from nextclick.shared.kafka import ensure_topics

    kafka = read_settings().kafka
    topics = [*kafka.topics, kafka.related_topic]
    created = ensure_topics(kafka, topics)
    for topic in topics:
        console.print(f"{topic}: {'created' if topic in created else 'exists, left as it is'}")


@topics_app.command("check")
def topics_check(
    messages: Annotated[
        int, typer.Option(help="Messages to check, the newest of each partition.", min=1)
    ] = 10_000,
    json: Annotated[Path | None, _JSON] = None,
) -> None:
    """Check the clicks that producers send; exit code 1 if anything is wrong.

    Prints one line per problem: keys, partitions, timestamps, framing. Changes nothing.

    Example: nextclick topics check --json findings.json
    """
    from nextclick.services.topics import check

    settings = read_settings()
    topic, report = settings.kafka.clicks_topic, check.run(settings, messages)

    def show() -> None:
        typer.echo(
            f"{topic}: {report.partitions} partitions; looked at {report.messages:,} "
            f"messages of {report.users:,} users"
        )
        for finding in report.findings:
            typer.echo(printable(check.line(finding)))
        if not report.findings:
            well = "nothing is wrong with them" if report.messages else "there is nothing to check"
            typer.echo(well)

    output(check.as_json(report, topic), json, show)
    if report.findings:
        raise typer.Exit(1)


@sessions_app.command("rebuild")
def rebuild_sessions() -> None:
    """Rebuild the sessions in Redis from the clicks topic, up to the workers' committed offsets.

    For use after Redis has lost its data. Users who click during the rebuild may lose their earlier
    clicks; to avoid that, stop the workers first.

    Example: nextclick sessions rebuild
    """
    from nextclick.services.worker.rebuild import run

    rebuilt = run(read_settings(), partial(progress, unit="messages read", console=console))
    typer.echo(f"{rebuilt.read - rebuilt.behind:,} clicks are in their users' sessions")
    if rebuilt.behind:
        typer.echo(f"{rebuilt.behind:,} lie behind newer clicks of their users and were left out")


@models_app.command("list")
def models_list(json: Annotated[Path | None, _JSON] = None) -> None:
    """List the versions, oldest first; * is the current one, + the one that waits for promotion.

    Example: nextclick models list
    """
    registry = open_registry()
    pointer = registry.pointer()
    table = Table("", "version", "created", "parent", "HR@10", "clicks")
    for column in table.columns[1:4]:
        column.no_wrap = True  # a version that is cut short cannot be copied
    listed = []
    for version in registry.versions():
        current = pointer is not None and pointer.version == version
        waiting = pointer is not None and pointer.waiting == version
        states = {"current": current, "waiting": waiting}
        mark = "*" if current else "+" if waiting else ""
        try:
            manifest = registry.manifest(version)
        except CheckpointError as error:
            table.add_row(mark, cell(version), "broken", cell(str(error)), "", "")
            listed.append({"version": version, **states, "error": str(error)})
            continue
        listed.append({**manifest.model_dump(mode="json"), **states})
        table.add_row(
            mark,
            cell(version),
            cell(manifest.created_at),
            cell(manifest.parent or "–"),
            f"{manifest.metrics.get('test_hr@10', float('nan')):.4f}",
            f"{manifest.training.get('clicks', 0):,}",
        )
    output(listed, json, lambda: console.print(table))


@models_app.command("show")
def models_show(version: str) -> None:
    """Print the manifest of a version.

    Example: nextclick models show 20260131T120000-3fa2
    """
    typer.echo(open_registry().manifest(version).model_dump_json(indent=2))


@models_app.command("promote")
def models_promote(version: str) -> None:
    """Make a version current; running workers swap to it within seconds.

    Example: nextclick models promote 20260131T120000-3fa2
    """
    registry = open_registry()
    registry.check_no_experiment()
    registry.promote(version)
    console.print(f"current: {version}")


@models_app.command("rollback")
def models_rollback() -> None:
    """Go back to the version that was current before.

    Example: nextclick models rollback
    """
    registry = open_registry()
    registry.check_no_experiment()
    version = registry.rollback(reason="by a person, with the command").version
    console.print(f"current: {version}")


@models_app.command("prune")
def models_prune() -> None:
    """Remove old versions, as the trainer does after it has published.

    NEXTCLICK_REGISTRY__KEEP_VERSIONS and NEXTCLICK_REGISTRY__KEEP_DAYS say which stay; the current
    version, the one before it, and the one that waits always do.

    Example: NEXTCLICK_REGISTRY__KEEP_DAYS=7 nextclick models prune
    """
    limits = read_settings().registry
    removed = open_registry().prune(limits.keep_versions, limits.keep_days)
    console.print("\n".join([*removed, f"{len(removed):,} versions removed"]), markup=False)


@events_app.command("compact")
def events_compact() -> None:
    """Merge small files of the event log, and delete what is older than TRAINER__KEEP_DAYS.

    The trainer does this every ten minutes, too; it is safe to run beside one.

    Example: NEXTCLICK_TRAINER__EVENT_LOG=event_log nextclick events compact
    """
    from nextclick.trainer.collect import EventLog

    trainer = read_settings().trainer
    event_log = EventLog(trainer.event_log)
    done = event_log.maintain(trainer.keep_days)
    console.print(
        f"{event_log.url}: {done.files_before:,} files became {done.files_after:,}, "
        f"{done.rows_deleted:,} clicks deleted",
        markup=False,
    )


@events_app.command("upgrade")
def events_upgrade() -> None:
    """Take over an event log of the former format, in its folder; stop the trainer first.

    The former files are left where they are; delete them when you do not need them any more.

    Example: NEXTCLICK_TRAINER__EVENT_LOG=event_log nextclick events upgrade
    """
    from nextclick.trainer.collect.upgrade import upgrade

    url = read_settings().trainer.event_log
    clicks = upgrade(url)
    console.print(f"{clicks:,} clicks are now in the Delta table {masked_url(url)}", markup=False)


def open_registry() -> Registry:
    """The registry that the settings name."""
    from nextclick.shared.registry import Registry

    return Registry(read_settings().registry.url)
