"""Values by a schema registry: Avro, Protobuf, JSON Schema. Needs nextclick[schema-registry].

`framed_reader` reads the values that other producers' serializers write, `answer_encoder` writes
recommendations so. Here, and nowhere else, the settings decide whether there is a registry.
"""

from __future__ import annotations

from collections.abc import Callable

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.messages import EncodeRecommendation, as_json
from nextclick.shared.runtime.retry import RetryUntilAvailable
from nextclick.shared.runtime.settings import SchemaRegistrySettings
from nextclick.shared.schemas import AnswerSchema, Click, ReadFramed, Recommendation

__all__ = ["answer_encoder", "framed_reader"]


def framed_reader(
    settings: SchemaRegistrySettings,
    message: type[Click | Recommendation],
    until_available: RetryUntilAvailable | None = None,
) -> ReadFramed | None:
    """Reads values that have a schema in the registry; None if the settings name no registry.

    message: what the values are. until_available: waits while the registry does not answer;
    None: Unavailable is raised at once. Does not connect. Raises ConfigurationError for an
    unusable setting, ModuleNotFoundError without the extra (`runtime.extras`).
    """
    if not settings.url.get_secret_value():
        return None
    from nextclick.shared.kafka.schema_registry.client import SchemaRegistry
    from nextclick.shared.kafka.schema_registry.reader import FramedReader

    return FramedReader(SchemaRegistry(settings), message, until_available or _once)


def answer_encoder(
    settings: SchemaRegistrySettings,
    topic: str,
    answers: AnswerSchema = "recommendation",
) -> EncodeRecommendation:
    """Encodes recommendations for a topic, as the settings say. answers: which of our schemas.

    Connects, if they say a schema's format. Raises ConfigurationError if the registry does not have
    the schema, Unavailable if it does not answer, ModuleNotFoundError without the extra.
    """
    kind = settings.recommendations_format
    if kind == "json":
        return as_json
    if not settings.url.get_secret_value():
        raise ConfigurationError(
            f"NEXTCLICK_SCHEMA_REGISTRY__RECOMMENDATIONS_FORMAT = {kind} needs a registry: set "
            "NEXTCLICK_SCHEMA_REGISTRY__URL"
        )
    from nextclick.shared.kafka.schema_registry.client import SchemaRegistry
    from nextclick.shared.kafka.schema_registry.writer import make_encoder

    return make_encoder(SchemaRegistry(settings), kind, topic, settings.auto_register, answers)


def _once(action: Callable[..., object], *arguments: object) -> object:
    return action(*arguments)
