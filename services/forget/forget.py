"""`nextclick forget`, and the HTTP service's DELETE /users/{user_id}.

    1  event log: a tombstone, then rows and files (EventLog.forget has its own steps)
    2  models: which may know the user; remove them if asked to
    3  sessions in Redis
    4  wait until the workers have passed the clicks that were on the topic before
    5  sessions again, for those clicks may have begun one
    6  dead letters and topics: what they hold, and until when

Every step may be repeated, so after a crash or an outage the whole is run again. A step that cannot
be done is noted in the certificate, and the others are done all the same.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from nextclick.services.forget import topics
from nextclick.services.forget.certificate import Certificate, Log, Models, Sessions, iso
from nextclick.shared.errors import ConfigurationError, NextclickError
from nextclick.shared.kafka import retained_offsets
from nextclick.shared.redis import session_store
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.environment import secrets
from nextclick.shared.runtime.masking import masked_url, redact
from nextclick.shared.runtime.settings import Settings
from nextclick.shared.schemas import MAX_ID_LENGTH
from nextclick.trainer.collect import EventLog

WAIT_SECONDS = 60.0


def run(
    settings: Settings,
    user_id: str,
    *,
    wait_seconds: float = WAIT_SECONDS,
    remove_models: bool = False,
    count_messages: bool = False,
    on_step: Callable[[str], None] = lambda step: None,
) -> Certificate:
    """Forget a user; see the module.

    wait_seconds: to wait for the workers, and for a compaction of the event log. on_step: is told
    after each step. Raises ConfigurationError for an id that no click can have.
    """
    check(user_id)
    kafka, requested_at = settings.kafka, time.time()
    certificate = Certificate(iso(requested_at))
    held: dict[int, range] | None = None
    with _noting(certificate):
        held = retained_offsets(kafka, kafka.clicks_topic)
    with _noting(certificate):
        _forget_clicks(
            settings, user_id, requested_at, certificate, remove_models, wait_seconds, on_step
        )
    with _noting(certificate):
        _forget_sessions(settings, user_id, certificate)
    on_step("sessions")
    if held is not None:
        with _noting(certificate):
            group_id = settings.worker.group_id
            if behind := topics.await_group(kafka, group_id, held, wait_seconds):
                certificate.remaining.append(
                    f"the workers (group {group_id}) are {behind:,} clicks behind the moment of "
                    "the request; clicks of the user among them begin a session anew"
                )
        on_step("workers")
        if certificate.sessions is not None:
            with _noting(certificate):
                _forget_sessions(settings, user_id, certificate)
        with _noting(certificate):
            certificate.topics = topics.look(
                kafka, user_id, requested_at, count_messages=count_messages
            )
    on_step("topics")
    certificate.finished_at = iso(time.time())
    return certificate


def check(user_id: str) -> None:
    """Raise ConfigurationError for an id that no click can have."""
    try:
        user_id.encode()
    except UnicodeEncodeError:
        raise ConfigurationError("the user id is not valid UTF-8") from None
    if not 1 <= len(user_id) <= MAX_ID_LENGTH:
        raise ConfigurationError(
            f"a user id has 1 to {MAX_ID_LENGTH} characters, and this one has {len(user_id)}"
        )


def _forget_clicks(
    settings: Settings,
    user_id: str,
    requested_at: float,
    certificate: Certificate,
    remove_models: bool,
    wait_seconds: float,
    on_step: Callable[[str], None],
) -> None:
    event_log = EventLog(settings.trainer.event_log, must_exist=True)
    erased = event_log.forget(
        user_id,
        int(requested_at * 1000),
        keep_days=settings.trainer.keep_days,
        wait_seconds=wait_seconds,
        on_step=on_step,
    )
    certificate.user_hash = erased.user_hash
    certificate.event_log = Log(
        event_log.url, erased.rows, erased.files, erased.version_before, erased.version_after
    )
    certificate.remaining += erased.unfinished
    registry = Registry(settings.registry.url)
    known = registry.trained_before(erased.models)
    removed = []
    if remove_models and known:
        event_log.remove_models()
        removed = registry.remove(known)
    pointer = registry.pointer()
    certificate.models = Models(
        registry.url,
        tuple(known),
        tuple(removed),
        None if pointer is None else pointer.version,
        erased.models,
    )
    on_step("models")


def _forget_sessions(settings: Settings, user_id: str, certificate: Certificate) -> None:
    before = 0 if certificate.sessions is None else certificate.sessions.removed
    sessions = session_store(settings)
    try:
        removed = before + sessions.forget(user_id)
    finally:
        sessions.close()
    certificate.sessions = Sessions(
        masked_url(settings.redis.url.get_secret_value()), settings.redis.key_prefix, removed
    )


@contextlib.contextmanager
def _noting(certificate: Certificate) -> Iterator[None]:
    """Note an error as something that remains to be done."""
    try:
        yield
    except NextclickError as error:
        certificate.remaining.append(redact(secrets(), str(error)))
