"""All settings, read once from the environment: `NEXTCLICK_` + section + `__` + name.

One frozen object; unknown names are refused, so that a typo does not pass silently. Only the entry
points (`cli`, `demo`, each service's `main`) read it; everything else takes plain arguments.
"""

from __future__ import annotations

import json
import os
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.item_features import MAX_COLD_ITEMS
from nextclick.shared.profiles import Profile, ProfileName, unknown_profile
from nextclick.shared.runtime.environment import API_KEY, CLIENT_CONFIG, URLS
from nextclick.shared.schemas import AnswerSchema

PREFIX = "NEXTCLICK_"
NESTING = "__"
JSON_SETTINGS = (
    CLIENT_CONFIG,
    "NEXTCLICK_CLICKS__EVENT_WEIGHTS",
    "NEXTCLICK_CLICKS__LABEL_WEIGHTS",
    "NEXTCLICK_KAFKA__PROFILE_TOPICS",
    "NEXTCLICK_PROFILES",
)
"""The settings that are JSON objects."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class KafkaSettings(_Section):
    """Where Kafka is and what the topics are called."""

    bootstrap_servers: str = Field("localhost:9092", min_length=1, description="host:port, …")
    client_config: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,  # may hold sasl.password
        description="JSON object passed through to librdkafka (SASL, TLS, …)",
    )
    sasl_password_file: str = Field(
        "",
        description="file with the sasl.password of CLIENT_CONFIG's sasl.username; read again "
        "while a process runs",
    )
    client_id: str = Field(
        "",
        description="client.id in Kafka's quotas, metrics and logs; empty = nextclick-COMMAND",
    )
    clicks_topic: str = Field("clicks", description="clicks in")
    recommendations_topic: str = Field("recommendations", description="recommendations out")
    dlq_topic: str = Field("clicks.dlq", description="messages that are not clicks")
    items_topic: str = Field(
        "items", description="items: attributes, and which of them are in no list"
    )
    related_topic: str = Field(
        "items.related",
        description="similar items, and items bought together: from `nextclick related`",
    )
    profile_topics: dict[Annotated[str, Field(min_length=1, max_length=249)], ProfileName] = Field(
        default_factory=dict,
        description="JSON object topic → profile: workers publish a list under it there, too; for "
        "RECOMMENDATIONS_TOPIC it is the only one (docs/constraints.md)",
    )
    partitions: int = Field(8, ge=1, description="partitions of topics that nextclick creates")
    replication_factor: int = Field(
        -1,
        ge=-1,
        description="replicas of topics that nextclick creates; -1 = the brokers' default",
    )
    min_insync_replicas: int = Field(
        0,
        ge=0,
        description="min.insync.replicas of topics that nextclick creates; "
        "0 = the brokers' default",
    )
    retention_hours: float = Field(
        168, gt=0, description="retention of topics that nextclick creates"
    )

    @property
    def topics(self) -> list[str]:
        """All topics that a click, its answers and lists need."""
        return [self.clicks_topic, *self.answer_topics, self.dlq_topic, self.items_topic]

    @property
    def answer_topics(self) -> list[str]:
        """The topics of recommendations; RECOMMENDATIONS_TOPIC is the first."""
        return list(dict.fromkeys([self.recommendations_topic, *self.profile_topics]))

    def partitions_of(self, topic: str) -> int:
        """Partitions of a topic that is created. Items have one: an offset is a version of all."""
        return 1 if topic == self.items_topic else self.partitions


class SchemaRegistrySettings(_Section):
    """The schema registry of the topics' other producers and consumers; needs an extra."""

    url: SecretStr = Field(
        SecretStr(""),
        description="http(s)://user:password@host:port of a schema registry, several with commas; "
        "empty = none",
    )
    password_file: str = Field(
        "", description="file with the password of URL's user; read again when it is needed"
    )
    ca_file: str = Field("", description="PEM file of the CAs to trust; empty = those of certifi")
    timeout_seconds: float = Field(5.0, gt=0, description="time-out of each request")
    recommendations_format: Literal["json", "avro", "protobuf", "json_schema"] = Field(
        "json",
        description="how workers write recommendations: json (plain), or by a schema in the "
        "registry: avro, protobuf, json_schema",
    )
    auto_register: bool = Field(
        False, description="register the schema of recommendations; else it must be there"
    )


class RedisSettings(_Section):
    """Where Redis, which holds the session state, is."""

    url: SecretStr = Field(
        SecretStr("redis://localhost:6379/0"),
        description="redis://, rediss:// (TLS) or unix:// URL",
    )
    password_file: str = Field(
        "", description="file with the password of URL's user; read again at each connection"
    )
    cluster: bool = Field(False, description="the URL is that of a node of a Redis Cluster")
    key_prefix: str = Field("nextclick:session:", description="prefix of the user id in every key")
    timeout_seconds: float = Field(5.0, gt=0, description="time-out of connecting and of each call")


class ClickSettings(_Section):
    """Which events count as clicks, and at what time."""

    event_weights: dict[str, Annotated[float, Field(ge=0, le=1000)]] = Field(
        default_factory=dict,
        description="JSON object event type → weight in training, on top of the defaults "
        '(docs/messages.md); 0 = not a click; "*" = every other type',
    )
    label_weights: dict[str, Annotated[float, Field(ge=0, le=1000)]] = Field(
        default_factory=dict,
        description="JSON object event type → weight as what is predicted, where it is not that "
        "of EVENT_WEIGHTS; 0 = in histories, but never predicted",
    )
    max_age_seconds: float = Field(
        86_400,
        ge=0,
        description="a click's time may lie so far before Kafka's; else Kafka's counts",
    )
    max_ahead_seconds: float = Field(
        300, ge=0, description="a click's time may lie so far after Kafka's; else Kafka's counts"
    )
    max_per_minute: int = Field(
        60,
        ge=0,
        description="a retraining counts so many clicks of one user and minute; 0 = all",
    )


class SessionSettings(_Section):
    """What counts as one session; one setting, because worker and trainer must agree."""

    gap_seconds: float = Field(
        1800, ge=0, description="event time without a click that ends a session; 0 = never"
    )
    ttl_seconds: int = Field(86_400, ge=1, description="wall time after which Redis forgets a user")


class RegistrySettings(_Section):
    """Where model versions are published."""

    url: str = Field(
        "registry",
        min_length=1,
        repr=False,  # may hold the key of an object store
        description="folder or any fsspec URL",
    )
    poll_seconds: float = Field(1.0, gt=0, description="how often workers read the pointer")
    keep_versions: int = Field(
        20, ge=1, description="the newest versions that the trainer keeps, whatever their age"
    )
    keep_days: float = Field(
        30, ge=0, description="it keeps all versions younger than this; and the current one"
    )
    deltas: bool = Field(
        True, description="workers and the HTTP service take what was learned between retrainings"
    )
    keep_delta_seconds: float = Field(
        3600, ge=60, description="the trainer keeps deltas for so long; the newest always"
    )


class WorkerSettings(_Section):
    """How the worker serves."""

    group_id: str = Field("nextclick-worker", min_length=1, description="Kafka consumer group")
    instance_id: str = Field(
        "", description="stable name within the group: a restart takes over at once (KIP-345)"
    )
    guarantee: Literal["at_least_once", "exactly_once"] = Field(
        "at_least_once",
        description="at_least_once, or exactly_once: answers and offsets in one transaction",
    )
    max_batch: int = Field(256, ge=1, description="most clicks in one micro-batch")
    top_k: int = Field(10, ge=1, description="items in a recommendation")
    torch_threads: int = Field(1, ge=1, description="threads of one forward pass")
    guard_clicks: int = Field(
        2000,
        ge=0,
        description="judged clicks within which a new model that does worse is rolled back; "
        "0 = off",
    )
    metrics_port: int = Field(
        0, ge=0, le=65535, description="port of /metrics, /healthz and /readyz; 0 = off"
    )


class TrainerSettings(_Section):
    """Collecting clicks, by the trainer or `nextclick collector`, and when and how to retrain."""

    group_id: str = Field("nextclick-trainer", min_length=1, description="Kafka consumer group")
    instance_id: str = Field(
        "", description="stable name within the group: a restart takes over at once (KIP-345)"
    )
    event_log: str = Field(
        "event_log", min_length=1, description="Delta table of clicks: a folder or object store URL"
    )
    keep_days: int = Field(
        0, ge=0, description="delete clicks from the event log after this many days; 0 = never"
    )
    every_seconds: float = Field(3600, gt=0, description="retrain after this many seconds …")
    every_clicks: int = Field(100_000, ge=1, description="… or after this many new clicks")
    min_clicks: int = Field(1000, ge=1, description="do not train on fewer clicks than this")
    window_clicks: int = Field(
        2_000_000, ge=1, description="train on at most this many of the newest clicks"
    )
    flush_seconds: float = Field(
        5.0, gt=0, description="write collected clicks to the event log at least this often"
    )
    promote: bool = Field(
        True,
        description="workers serve what the gate agreed to; false: it waits for an experiment or "
        "nextclick models promote",
    )
    delta_seconds: float = Field(
        0,
        ge=0,
        description="publish what new clicks teach after this many seconds, between retrainings; "
        "0 = off",
    )
    preset: str = Field("default", description="model and fit preset: default or source")
    max_cold_items: int = Field(
        MAX_COLD_ITEMS,
        ge=0,
        description="most items without a click that a model knows by what the items topic says of "
        "them; 0 = models learn from clicks alone",
    )
    max_epochs: int = Field(0, ge=0, description="most epochs of a fit; 0 = as in the preset")
    max_fit_seconds: float = Field(600, gt=0, description="longest time of one fit")
    seed: int = Field(42, description="seed of initialisation and shuffling")
    torch_threads: int = Field(0, ge=0, description="threads of a fit; 0 = all cores")
    metrics_port: int = Field(
        0, ge=0, le=65535, description="port of /metrics, /healthz and /readyz; 0 = off"
    )


class RelatedSettings(_Section):
    """Settings of `nextclick related`."""

    metrics_port: int = Field(
        0, ge=0, le=65535, description="port of /metrics, /healthz and /readyz; 0 = off"
    )


class ApiSettings(_Section):
    """The HTTP service."""

    host: str = Field(
        "127.0.0.1", min_length=1, description="address to listen on; 0.0.0.0 = all of them"
    )
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 = any free port")
    reuse_port: bool = Field(
        False,
        description="several processes of one user may listen on the port (SO_REUSEPORT); Linux "
        "shares out the connections among them",
    )
    key: SecretStr = Field(
        SecretStr(""),
        description="if set, requests must carry it in the header X-API-Key, or as Bearer token; "
        "without a key the host must be a loopback address",
    )
    key_file: str = Field(
        "",
        description="file with keys, one a line, each as good as the key; read again every second, "
        "so they can be changed at any time",
    )
    allowed_hosts: list[str] = Field(
        [],
        description="names that the header Host may have, as a JSON list; empty = without a key "
        "those of this machine, with a key any",
    )
    trusted_proxies: list[str] = Field(
        [],
        description="addresses of proxies whose X-Forwarded-For names the client, as a JSON list",
    )
    wrong_keys_per_minute: int = Field(
        10, ge=1, description="wrong keys from one address; further requests with a key get 429"
    )
    requests_per_second: float = Field(
        0, ge=0, description="requests with one key; further ones get 429; 0 = no limit"
    )
    exclude_seen: bool = Field(
        False,
        description="leave out the items of the history, unless the request says otherwise",
    )
    catalogue: str = Field("", description="CSV file item_id,category, for the category filter")
    rules_poll_seconds: float = Field(
        0.25, gt=0, le=1, description="how often the catalogue is read"
    )
    page: bool = Field(True, description="serve the live page at /")
    metrics_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="port for /metrics, /healthz and /readyz without a key, as the worker has one; "
        "0 = off, and /metrics needs the key",
    )
    max_header_bytes: int = Field(16_384, ge=1024, description="longest head of a request")
    max_body_bytes: int = Field(65_536, ge=1024, description="longest request body")
    request_seconds: float = Field(
        10, gt=0, description="a request must have arrived, and its response been read, by then"
    )
    idle_seconds: float = Field(
        65, gt=0, description="a connection may wait this long for its next request"
    )
    max_connections: int = Field(
        2000, ge=1, description="most connections; then the one that idles longest is closed"
    )
    max_requests: int = Field(
        1000, ge=1, description="most requests in progress; further ones get 503"
    )
    max_batch: int = Field(64, ge=1, description="most requests scored in one batch")
    max_waiting: int = Field(1000, ge=1, description="most waiting requests; further ones get 503")
    redis_timeout_seconds: float = Field(
        0.25, gt=0, description="time-out of reading a history; then popularity answers"
    )


class DlqSettings(_Section):
    """Settings of `nextclick dlq redrive`."""

    group_id: str = Field(
        "nextclick-redrive",
        min_length=1,
        description="prefix of the Kafka consumer groups of redriving; there is one per reason",
    )


class Settings(BaseSettings):
    """The one settings object of a process."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter=NESTING, frozen=True, extra="forbid"
    )

    device: str = Field(
        "auto", description="auto (the first of MPS, CUDA, CPU), or the name of a torch device"
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="least severe level that is logged"
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto",
        description="log format of the services: text, json (one object per line), or auto: text "
        "on a terminal, else json",
    )
    tracing: bool = Field(
        False,
        description="workers send spans of clicks that carry a sampled traceparent, by "
        "OpenTelemetry; its own variables, such as OTEL_EXPORTER_OTLP_ENDPOINT, say where to",
    )
    profiles: dict[ProfileName, Profile] = Field(
        {},
        description="JSON object name → constraints on a list (docs/constraints.md)",
    )
    kafka: KafkaSettings = KafkaSettings()
    schema_registry: SchemaRegistrySettings = SchemaRegistrySettings()
    redis: RedisSettings = RedisSettings()
    clicks: ClickSettings = ClickSettings()
    session: SessionSettings = SessionSettings()
    registry: RegistrySettings = RegistrySettings()
    worker: WorkerSettings = WorkerSettings()
    trainer: TrainerSettings = TrainerSettings()
    related: RelatedSettings = RelatedSettings()
    api: ApiSettings = ApiSettings()
    dlq: DlqSettings = DlqSettings()

    @classmethod
    def settings_customise_sources(  # type: ignore[override]
        cls, settings_cls: Any, **_: Any
    ) -> tuple[Any, ...]:
        """Read the environment only: one source per setting."""
        return (EnvSettingsSource(settings_cls),)

    @classmethod
    def from_environment(cls) -> Self:
        """Read and validate all settings.

        Raises ConfigurationError that names the environment variable and its error.
        """
        known = environment_names()
        ours = [name for name in os.environ if name.upper().startswith(PREFIX)]
        unknown = [name for name in ours if name.upper() not in known]
        if unknown:
            raise ConfigurationError(
                f"unknown setting {', '.join(sorted(unknown))}; "
                "docs/configuration.md lists every setting"
            )
        try:
            settings = cls()
        except ValidationError as error:
            raise ConfigurationError(_one_line(error)) from None
        except ValueError:  # pydantic-settings does not say which
            wrong = next((name for name in JSON_SETTINGS if not _is_json(name)), CLIENT_CONFIG)
            raise ConfigurationError(f"{wrong} is not a JSON object") from None
        settings._check_profiles()
        return settings

    @property
    def past_days(self) -> float:
        """For how many days a profile asks what users clicked or bought; 0: none does."""
        days = (
            d for p in self.profiles.values() for d in (p.exclude_seen_days, p.exclude_bought_days)
        )
        return max((d for d in days if d is not None), default=0)

    def answer_schema(self, topic: str, experiment: bool = False) -> AnswerSchema:
        """The schema of the answers on a topic, outside of experiments or in them."""
        name = self.kafka.profile_topics.get(topic)
        if name is not None and self.profiles[name].is_extended:
            return "extended-recommendation"
        if experiment:
            return "experiment-recommendation"
        return "recommendation" if name is None else "profiled-recommendation"

    def _check_profiles(self) -> None:
        """Raise ConfigurationError for what only several settings together say."""
        for name, profile in self.profiles.items():
            try:
                profile.check_length(self.worker.top_k)
            except ValueError as error:
                raise ConfigurationError(
                    f"NEXTCLICK_PROFILES: {name}: {error}, NEXTCLICK_WORKER__TOP_K"
                ) from None
        kafka = self.kafka
        for topic, name in kafka.profile_topics.items():
            where = f"NEXTCLICK_KAFKA__PROFILE_TOPICS: {topic}"
            if name not in self.profiles:
                raise ConfigurationError(f"{where}: {unknown_profile(name, self.profiles)}")
            others = kafka.clicks_topic, kafka.dlq_topic, kafka.items_topic, kafka.related_topic
            if topic in others:
                raise ConfigurationError(f"{where} is a topic of other messages")


def environment_names() -> dict[str, tuple[str, str]]:
    """Environment variable → its default (as text) and its description."""
    names: dict[str, tuple[str, str]] = {}
    for field_name, field in Settings.model_fields.items():
        if isinstance(field.default, _Section):
            for name, inner in type(field.default).model_fields.items():
                default = getattr(field.default, name)
                plain = default.get_secret_value() if isinstance(default, SecretStr) else default
                key = f"{PREFIX}{field_name}{NESTING}{name}".upper()
                names[key] = (str(plain), inner.description or "")
        else:
            names[f"{PREFIX}{field_name}".upper()] = (str(field.default), field.description or "")
    return names


def _is_json(name: str) -> bool:
    try:
        json.loads(os.environ.get(name, "{}"))
    except ValueError:
        return False
    return True


def _one_line(error: ValidationError) -> str:
    lines = []
    known = environment_names()
    for wrong in error.errors(include_url=False):
        path = [str(part) for part in wrong["loc"]]
        name, inside = _name(path), ""
        for length in range(1, len(path)):  # what follows is within a JSON object
            if _name(path[:length]) in known:
                name, inside = _name(path[:length]), f": {'.'.join(path[length:])}"
        secret = name.startswith((CLIENT_CONFIG, API_KEY, *URLS))
        value = "" if secret else f" = {wrong['input']!r}"
        lines.append(f"{name}{inside}{value}: {wrong['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)


def _name(path: list[str]) -> str:
    return f"{PREFIX}{NESTING.join(path)}".upper()
