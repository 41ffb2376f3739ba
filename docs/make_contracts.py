"""Write docs/schemas/*, docs/asyncapi.json and docs/openapi.json: python docs/make_contracts.py

What is on the topics, for machines: JSON Schemas of the messages from shared/schemas.py, Avro and
Protobuf schemas from shared/kafka/schema_registry, and an AsyncAPI document that says on which
topic each of them is. And what the HTTP service answers.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

from nextclick.services.api.access import access
from nextclick.services.api.app import create_app
from nextclick.services.api.components import Components
from nextclick.shared.kafka.schema_registry import contracts
from nextclick.shared.kafka.topics import new_topic_config
from nextclick.shared.messages import REDRIVEN
from nextclick.shared.runtime.settings import ApiSettings, KafkaSettings, WorkerSettings
from nextclick.shared.schemas import (
    REASONS,
    AnswerSchema,
    Click,
    DrawnItems,
    ExperimentArm,
    ExtendedRecommendation,
    Item,
    KeptOutItems,
    Recommendation,
    RelatedItem,
    RelatedItems,
    ScoredItem,
)

FOLDER = Path(__file__).parent
DIGITS = "^[0-9]+$"

CLICK = Click(
    event_id="2a6d34cf-bb43-49e2-8925-b57efc1b94d1",
    user_id="alice",
    item_id="17",
    timestamp=1_795_515_998_017,
)
RECOMMENDATION = Recommendation(
    event_id=CLICK.event_id,
    user_id=CLICK.user_id,
    items=[ScoredItem("45", 0.0274885), ScoredItem("31", 0.027389)],
    model_version="20261124T102620-1fd4",
    history=["17"],
    click_timestamp=CLICK.timestamp,
    scored_at=1_795_516_001_073,
)
PROFILED_RECOMMENDATION = ExtendedRecommendation(
    **dict(RECOMMENDATION), profile="cart@69fea1de5ef8", shortened_by={"price": 498}
)
EXPERIMENT_RECOMMENDATION = ExtendedRecommendation(
    **dict(RECOMMENDATION), experiment=ExperimentArm(name="newer-model", arm="b")
)
EXPLORED_RECOMMENDATION = ExtendedRecommendation(
    **dict(RECOMMENDATION),
    profile="home@2f9f0ffae7b5",
    shortened_by=None,
    exploration=DrawnItems(seed="8a4c1f0293d5e67b", propensities=[1, 0.0814217]),
    kept_out=KeptOutItems(seen=["17"], bought=[]),
)
ANSWERS: tuple[AnswerSchema, ...] = get_args(AnswerSchema)
ITEM = Item(item_id="45", title="Food Bowl", categories=["dogs"], price=12.5, color="blue")

RELATED_ITEMS = RelatedItems(
    item_id="45",
    similar=[RelatedItem("31", 0.412), RelatedItem("39", 0.377)],
    bought_together=[RelatedItem("17", 0.0812)],
    bought_together_basis="purchases",
    model_version=RECOMMENDATION.model_version,
    items_offset=12,
)

DEAD_LETTER_HEADERS: dict[str, Any] = {
    "$schema": contracts.DRAFT,
    "title": "DeadLetterHeaders",
    "description": "Headers of a message on the dead-letter topic, each of them UTF-8 text. "
    "Key and value of the message are the bytes as they came.",
    "type": "object",
    "properties": {
        "topic": {"type": "string", "description": "where the message was read"},
        "partition": {"type": "string", "pattern": DIGITS},
        "offset": {"type": "string", "pattern": DIGITS},
        "error_class": {"enum": list(REASONS), "description": "why it is no click"},
        "error": {"type": "string", "maxLength": 1000, "description": "the same for people"},
        "time": {"type": "string", "pattern": DIGITS, "description": "epoch milliseconds"},
        REDRIVEN: {
            "type": "string",
            "pattern": DIGITS,
            "description": "how many times `nextclick dlq redrive` sent it before",
        },
        "original_bytes": {
            "type": "string",
            "pattern": DIGITS,
            "description": "the value is cut; it had so many bytes",
        },
        "original_key_bytes": {
            "type": "string",
            "pattern": DIGITS,
            "description": "the key is cut; it had so many bytes",
        },
    },
    "required": ["topic", "partition", "offset", "error_class", "error", "time"],
}


def schemas() -> dict[str, dict[str, Any]]:
    """File name → JSON Schema. A click as it may be sent, a recommendation as it is sent."""
    return {
        "click.json": contracts.json_schema(Click, "validation"),
        **{f"{name}.json": contracts.recommendation_json_schema(name) for name in ANSWERS},
        "item.json": contracts.json_schema(Item, "validation"),
        "related-items.json": contracts.json_schema(RelatedItems, "serialization"),
        "dead-letter-headers.json": DEAD_LETTER_HEADERS,
    }


def asyncapi() -> dict[str, Any]:
    """The topics, their messages, and what nextclick does with them."""
    kafka = KafkaSettings()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "nextclick",
            "version": version("nextclick"),
            "description": "Clicks in, recommendations out. Topic names are the defaults of "
            "NEXTCLICK_KAFKA__CLICKS_TOPIC, …RECOMMENDATIONS_TOPIC, …DLQ_TOPIC, …ITEMS_TOPIC and "
            "…RELATED_TOPIC.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "compose": {
                "host": "localhost:29092",
                "protocol": "kafka",
                "description": "of docker-compose.yml; yours is another",
            }
        },
        "channels": {
            "clicks": _channel(kafka.clicks_topic, "click"),
            "recommendations": _channel(
                kafka.recommendations_topic, "recommendation", "experimentRecommendation"
            ),
            "profiledRecommendations": _channel(
                "{topic}",
                "profiledRecommendation",
                "experimentRecommendation",
                "exploredRecommendation",
                parameters={"topic": {"description": "a topic of NEXTCLICK_KAFKA__PROFILE_TOPICS"}},
            ),
            "deadLetters": _channel(kafka.dlq_topic, "deadLetter"),
            "items": _channel(kafka.items_topic, "item"),
            "relatedItems": _channel(kafka.related_topic, "relatedItems"),
        },
        "operations": {
            "receiveClick": _operation("receive", "clicks", "click", "The shop sends clicks."),
            "sendRecommendation": _operation(
                "send",
                "recommendations",
                "recommendation",
                "One answer for each click. A second answer to a click has the same event_id.",
            ),
            "sendExperimentRecommendation": _operation(
                "send",
                "recommendations",
                "experimentRecommendation",
                "The same while a live experiment runs.",
            ),
            "sendProfiledRecommendation": _operation(
                "send",
                "profiledRecommendations",
                "profiledRecommendation",
                "One answer for each click on each topic that has a profile.",
            ),
            "sendExploredRecommendation": _operation(
                "send",
                "profiledRecommendations",
                "exploredRecommendation",
                "The same where the profile explores.",
            ),
            "sendDeadLetter": _operation(
                "send", "deadLetters", "deadLetter", "What lay on the clicks topic and is no click."
            ),
            "receiveItem": _operation(
                "receive",
                "items",
                "item",
                "The newest message of an item counts, as a whole; one without a value retires it.",
            ),
            "sendRelatedItems": _operation(
                "send",
                "relatedItems",
                "relatedItems",
                "The newest message of an item counts; one without a value: the model does not "
                "know it.",
            ),
        },
        "components": {
            "messages": {
                "click": _message("click", CLICK.model_dump(mode="json")),
                "recommendation": _message(
                    "recommendation", RECOMMENDATION.model_dump(mode="json")
                ),
                "profiledRecommendation": _message(
                    "profiled-recommendation",
                    PROFILED_RECOMMENDATION.model_dump(mode="json", exclude_unset=True),
                ),
                "experimentRecommendation": _message(
                    "experiment-recommendation",
                    EXPERIMENT_RECOMMENDATION.model_dump(mode="json", exclude_unset=True),
                ),
                "exploredRecommendation": _message(
                    "extended-recommendation",
                    EXPLORED_RECOMMENDATION.model_dump(mode="json", exclude_unset=True),
                ),
                "deadLetter": {
                    "contentType": "application/octet-stream",
                    "headers": {"$ref": "./schemas/dead-letter-headers.json"},
                    "payload": {"description": "the bytes as they came", "type": "string"},
                    "bindings": _key("as it came"),
                },
                "item": {
                    "payload": {"$ref": "./schemas/item.json"},
                    "bindings": _key("the item_id"),
                    "examples": [{"name": "bowl", "payload": ITEM.model_dump(exclude_unset=True)}],
                },
                "relatedItems": {
                    "payload": {"$ref": "./schemas/related-items.json"},
                    "bindings": _key("the item_id"),
                    "examples": [{"name": "bowl", "payload": RELATED_ITEMS.model_dump()}],
                },
            }
        },
    }


def _channel(
    topic: str, *messages: str, parameters: dict[str, Any] | None = None
) -> dict[str, Any]:
    kafka = KafkaSettings()
    config = {name: _number(text) for name, text in new_topic_config(kafka, topic).items()}
    # -1 means the broker's own number, which AsyncAPI has no word for.
    replicas = {"replicas": kafka.replication_factor} if kafka.replication_factor > 0 else {}
    return {
        "address": topic,
        **({"parameters": parameters} if parameters else {}),
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {
            "kafka": {
                "partitions": kafka.partitions_of(topic),
                **replicas,
                "topicConfiguration": config,
                "bindingVersion": "0.5.0",
            }
        },
    }


def _number(text: str) -> int | list[str]:
    return int(text) if text.isdigit() else [text]  # cleanup.policy


def _operation(action: str, channel: str, message: str, summary: str) -> dict[str, Any]:
    return {
        "action": action,
        "summary": summary,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message}"}],
    }


def _message(name: str, example: dict[str, Any]) -> dict[str, Any]:
    return {
        "payload": {"$ref": f"./schemas/{name}.json"},
        "correlationId": {
            "description": "the click and its answer have the same",
            "location": "$message.payload#/event_id",
        },
        "bindings": _key("the user_id, so that a user's messages share a partition"),
        "examples": [{"name": "alice", "payload": example}],
    }


def _key(description: str) -> dict[str, Any]:
    return {
        "kafka": {"key": {"type": "string", "description": description}, "bindingVersion": "0.5.0"}
    }


def openapi() -> dict[str, Any]:
    """The OpenAPI document, as /openapi.json has it."""
    settings = ApiSettings()
    nothing = cast(Components, SimpleNamespace(alive={}, ready={}))  # no request comes
    app = create_app(nothing, settings, WorkerSettings().top_k, access(settings))
    return app.openapi()


def texts() -> dict[Path, str]:
    """Every file and its content."""
    folder = FOLDER / "schemas"
    files = {folder / name: schema for name, schema in schemas().items()}
    files[folder / "click.avsc"] = contracts.AVRO_CLICK
    for name in ANSWERS:
        files[folder / f"{name}.avsc"] = contracts.avro_recommendation(name)
    files[FOLDER / "asyncapi.json"] = asyncapi()
    files[FOLDER / "openapi.json"] = openapi()
    return {
        path: json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        for path, content in files.items()
    } | {
        folder / "click.proto": contracts.proto_text(contracts.protobuf_click()),
        **{
            folder / f"{name}.proto": contracts.proto_text(contracts.protobuf_recommendation(name))
            for name in ANSWERS
        },
    }


def main() -> None:
    """Write them."""
    for path, text in texts().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
