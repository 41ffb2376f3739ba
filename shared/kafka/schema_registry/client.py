"""Asks a schema registry, by Confluent's HTTP interface; Karapace and Apicurio have it, too."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import httpx2
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError

from nextclick.shared.errors import ConfigurationError, NextclickError, Unavailable
from nextclick.shared.runtime.masking import masked_url
from nextclick.shared.runtime.secret_file import read_secret
from nextclick.shared.runtime.settings import SchemaRegistrySettings
from nextclick.shared.schemas import SchemaId

logging.getLogger("httpx2").setLevel(logging.WARNING)  # else a line for each request

URL = "NEXTCLICK_SCHEMA_REGISTRY__URL"
PASSWORD_FILE = "NEXTCLICK_SCHEMA_REGISTRY__PASSWORD_FILE"
CA_FILE = "NEXTCLICK_SCHEMA_REGISTRY__CA_FILE"

Kind = Literal["AVRO", "PROTOBUF", "JSON"]

_NOT_FOUND = (40401, 40402, 40403)
"""Error codes: no such subject, version, schema. A 404 without one is not from a registry."""


class SchemaNotFound(NextclickError):
    """The registry answers, and does not have the schema."""


@dataclass(frozen=True)
class FetchedSchema:
    """A schema and all that it refers to, directly or not."""

    kind: str
    """One of Kind, or a kind of schema that we do not know."""
    text: str
    """JSON, or of Protobuf a FileDescriptorProto in base64."""
    references: dict[str, str]
    """Name → text; each stands after those that it refers to itself."""
    subjects: tuple[str, ...] = ()
    """Those that have it, as far as the registry says; none for a GUID."""


class SchemaRegistry:
    """The registry of the settings. A method connects, asks, and closes the connection."""

    def __init__(self, settings: SchemaRegistrySettings) -> None:
        """Raises ConfigurationError if the URL is none, or a file cannot be read."""
        self._settings = settings
        self._urls = [part.strip() for part in settings.url.get_secret_value().split(",")]
        self.name = masked_url(self._urls[0])
        """For people: the URL without its login."""
        if settings.ca_file:
            try:
                with Path(settings.ca_file).open("rb"):
                    pass
            except OSError as error:
                raise ConfigurationError(
                    f"{CA_FILE} = {settings.ca_file} cannot be read ({error.strerror})"
                ) from None
        self._client_config()

    def fetch(self, schema_id: SchemaId) -> FetchedSchema:
        """The schema of an id or GUID. Raises SchemaNotFound, Unavailable, ConfigurationError."""
        with self._client() as client:
            schema = _schema(client, schema_id, None)
            kind, form = schema.schema_type or "AVRO", None
            if kind == "PROTOBUF":
                form = "serialized"
                client.clear_caches()  # type: ignore[no-untyped-call]  # they know no formats
                schema = _schema(client, schema_id, form)
            references: dict[str, str] = {}
            _add_references(client, schema, form, references)
            subjects = _subjects(client, schema_id)
            return FetchedSchema(kind, schema.schema_str or "", references, subjects)

    def schema_id(self, subject: str, kind: Kind, text: str, *, register: bool) -> int:
        """The id of a schema under a subject, where `register` puts it if it is not there.

        Raises SchemaNotFound, ConfigurationError if it is refused, Unavailable.
        """
        schema = Schema(text, kind, [])
        with self._client() as client:
            if register:
                return int(client.register_schema(subject, schema, normalize_schemas=True))
            return int(client.lookup_schema(subject, schema, normalize_schemas=True).schema_id or 0)

    def ping(self) -> list[str]:
        """Raise unless the registry answers; returns the kinds of schemas that it takes."""
        with self._client() as client:
            return list(client.get_schema_types())

    def _client_config(self) -> dict[str, object]:
        parts = [urlsplit(url) for url in self._urls]
        if any(part.scheme not in ("http", "https") or not part.hostname for part in parts):
            raise ConfigurationError(f"{URL} is no URL; use https://user:password@host:port")
        user, password = parts[0].username, parts[0].password
        if self._settings.password_file:
            if password is not None or not user:
                raise ConfigurationError(
                    f"with {PASSWORD_FILE}, {URL} must have a user and no password: "
                    "https://user@host:port"
                )
            secret: str | None = read_secret(self._settings.password_file, PASSWORD_FILE)
        else:
            secret = None if password is None else unquote(password)
        plain = [part._replace(netloc=part.netloc.rpartition("@")[2]).geturl() for part in parts]
        config: dict[str, object] = {
            "url": ",".join(plain),
            "timeout": self._settings.timeout_seconds,
            "max.retries": 0,  # the caller knows how long to wait, and says so
        }
        if user and secret is not None:
            config["basic.auth.user.info"] = f"{unquote(user)}:{secret}"
        if self._settings.ca_file:
            config["ssl.ca.location"] = self._settings.ca_file
        return config

    @contextmanager
    def _client(self) -> Iterator[SchemaRegistryClient]:
        """A client with the password that is in the file now. Translates its errors into ours."""
        where = f"the schema registry {self.name} ({URL})"
        try:
            with SchemaRegistryClient(self._client_config()) as client:
                yield client
        except SchemaRegistryError as error:
            if error.error_code in _NOT_FOUND:
                raise SchemaNotFound(f"{where}: {error.error_message}") from None
            if error.http_status_code in (401, 403):
                raise self._login_refused(where, error.http_status_code) from None
            if error.http_status_code in (409, 422):
                raise ConfigurationError(f"{where} refused a schema: {error}") from None
            if error.http_status_code == 404:
                raise Unavailable(f"{where} is none: it answers 404; check the URL") from None
            raise Unavailable(f"{where}: {error}") from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            hint = f"; give its CA by {CA_FILE}" if "CERTIFICATE" in str(error) else ""
            why = str(error) or type(error).__name__
            raise Unavailable(f"{where} does not answer ({why}{hint})") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:  # an answer not JSON, …
            why = type(error).__name__
            raise Unavailable(f"{where} answers as no schema registry does ({why})") from None

    def _login_refused(self, where: str, status: int) -> NextclickError:
        if self._settings.password_file:
            return Unavailable(
                f"{where} refused the login ({status}); trying again with the password that is "
                f"then in {self._settings.password_file} ({PASSWORD_FILE})"
            )
        return ConfigurationError(
            f"{where} refused the login ({status}); check the user and the password in {URL}, and "
            "what the user may read"
        )


def _schema(client: SchemaRegistryClient, schema_id: SchemaId, form: str | None) -> Schema:
    if isinstance(schema_id, str):
        return client.get_schema_by_guid(schema_id, fmt=form)
    return client.get_schema(schema_id, fmt=form)


def _subjects(client: SchemaRegistryClient, schema_id: SchemaId) -> tuple[str, ...]:
    if isinstance(schema_id, str):
        return ()
    try:
        return tuple(sorted({str(v.subject) for v in client.get_schema_versions(schema_id)}))
    except (SchemaRegistryError, httpx2.HTTPError, ValueError, TypeError):  # good to know, no more
        return ()


def _add_references(
    client: SchemaRegistryClient, schema: Schema, form: str | None, found: dict[str, str]
) -> None:
    for reference in schema.references or ():
        name = str(reference.name)
        if name not in found:
            subject, number = str(reference.subject), int(reference.version or 0)
            referred = client.get_version(subject, number, True, form).schema
            _add_references(client, referred, form, found)
            found[name] = referred.schema_str or ""
