"""docs/schemas, docs/asyncapi.json and docs/openapi.json say what the code does, and are valid.

docs/asyncapi.json is parsed by AsyncAPI's own parser in tests/clients, since that is JavaScript.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

from nextclick.services.related.publisher import messages
from nextclick.services.worker import decide
from nextclick.shared.errors import BadClick, BadItem
from nextclick.shared.items import ItemStates
from nextclick.shared.messages import REDRIVEN, Message, of_user
from nextclick.shared.model import Ranking
from nextclick.shared.runtime.settings import KafkaSettings
from nextclick.shared.schemas import (
    ExperimentArm,
    Recommendation,
    RelatedItems,
    decode_click,
    decode_item,
)
from tests.unit.builders import related_lists

DOCS = Path(__file__).parents[3] / "docs"
_spec = importlib.util.spec_from_file_location("make_contracts", DOCS / "make_contracts.py")
assert _spec is not None
assert _spec.loader is not None
make_contracts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_contracts)

ASYNCAPI = json.loads((DOCS / "asyncapi.json").read_text())
OPENAPI = json.loads((DOCS / "openapi.json").read_text())


def validator(name: str) -> jsonschema.Draft202012Validator:
    schema = json.loads((DOCS / "schemas" / name).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


CLICK = validator("click.json")
RECOMMENDATION = validator("recommendation.json")
PROFILED = validator("profiled-recommendation.json")
IN_EXPERIMENT = validator("experiment-recommendation.json")
HEADERS = validator("dead-letter-headers.json")
ITEM = validator("item.json")
RELATED = validator("related-items.json")


@pytest.mark.parametrize("path", make_contracts.texts(), ids=lambda path: path.name)
def test_the_files_are_as_the_code_is(path: Path) -> None:
    assert path.read_text() == make_contracts.texts()[path], make_contracts.__doc__


def test_no_other_file_lies_beside_them() -> None:
    made = {path.name for path in make_contracts.texts()} - {"asyncapi.json", "openapi.json"}
    assert {path.name for path in (DOCS / "schemas").iterdir()} == made


# JSON Schema has no word for these: 1.0 is an integer to it, and a long integer has no length.
def is_beyond_json_schema(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, int) and abs(value) >= 10**127


anything = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=140),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
).filter(lambda value: not is_beyond_json_schema(value))
borders = st.one_of(
    anything,
    st.sampled_from(["x" * n for n in (0, 1, 64, 65, 128, 129)]),
    st.sampled_from(["ü" * 128, "\U0001f600" * 128, "\U0001f600" * 129]),
    st.sampled_from([0, 1, 2, "1", -1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1]),
)
"""Anything, and what lies on either side of a limit."""
names = st.text(min_size=1, max_size=64)
clicks = st.fixed_dictionaries(
    {
        "event_id": names,
        "user_id": st.one_of(names, st.integers()),
        "item_id": st.one_of(names, st.integers()),
        "timestamp": st.integers(-(2**63), 2**63 - 1),
    },
    optional={"event_type": names, "schema_version": st.just(1), "colour": anything},
)
FIELDS = ("event_id", "user_id", "item_id", "timestamp", "event_type", "schema_version", "colour")


@st.composite
def almost_clicks(draw: st.DrawFn) -> dict[str, Any]:
    """A click of which one field may be missing, or be anything at all."""
    message = draw(clicks)
    spoilt = draw(st.sampled_from([None, *FIELDS]))
    if spoilt is not None:
        message.pop(spoilt, None)
        if draw(st.integers(0, 4)):
            message[spoilt] = draw(borders)
    return message


def test_the_schema_of_a_click_accepts_what_the_worker_accepts() -> None:
    accepted = {True: 0, False: 0}

    @settings(max_examples=400)
    @given(almost_clicks())
    def both_agree(message: dict[str, Any]) -> None:
        try:
            decode_click(json.dumps(message).encode())
            taken = True
        except BadClick:
            taken = False
        assert CLICK.is_valid(message) == taken
        accepted[taken] += 1

    both_agree()
    assert min(accepted.values()) > 50, "the sample has to hold both clicks and others"


@given(anything)
def test_what_is_no_object_is_no_click(value: Any) -> None:
    with pytest.raises(BadClick):
        decode_click(json.dumps(value).encode())
    assert not CLICK.is_valid(value)


def test_where_json_schema_is_wider_than_the_worker() -> None:
    """The two cases that docs/messages.md names; if they change, so must the page."""
    good = make_contracts.CLICK.model_dump()
    for wider in ({"timestamp": 1.0}, {"user_id": 10**128}):
        assert CLICK.is_valid(good | wider)
        with pytest.raises(BadClick):
            decode_click(json.dumps(good | wider).encode())


def test_what_the_worker_sends_fits_its_schemas() -> None:
    click = make_contracts.CLICK
    for fallback in (None, "unknown_items", "not_finite"):
        ranking = Ranking(make_contracts.RECOMMENDATION.items, fallback)  # type: ignore[arg-type]
        answer = decide.recommendation(click, ["17"], ranking, "v", 1_795_516_001_073)
        sent = json.loads(of_user("t", answer).value or b"")
        RECOMMENDATION.validate(sent)
        assert sent.keys() == set(RECOMMENDATION.schema["required"])
        profiled = decide.recommendation(click, ["17"], ranking, "v", 1, 0, "cart@69fea1de5ef8")
        sent_there = json.loads(of_user("t", profiled).value or b"")
        PROFILED.validate(sent_there)
        assert sent_there.keys() == set(PROFILED.schema["required"])
        RECOMMENDATION.validate(sent_there)  # for those who do not know of profiles
        assert {name: sent_there[name] for name in sent} == sent | {"scored_at": 1}
        arm = ExperimentArm(name="try", arm="b")
        for profile_id in (None, "cart@69fea1de5ef8"):
            tried = decide.recommendation(click, ["17"], ranking, "v", 1, 0, profile_id, arm)
            sent_then = json.loads(of_user("t", tried).value or b"")
            IN_EXPERIMENT.validate(sent_then)
            assert sent_then.keys() >= set(IN_EXPERIMENT.schema["required"])
            (RECOMMENDATION if profile_id is None else PROFILED).validate(sent_then)
            assert sent_then.pop("experiment") == {"name": "try", "arm": "b"}
            assert sent_then == (sent_there if profile_id else sent | {"scored_at": 1})
    again = {REDRIVEN: b"2"}.items()
    letter = decide.dead_letter(
        "dlq",
        Message("clicks", 3, 17, b"k" * 20_000, b"v" * 2_000_000, tuple(again)),
        BadClick("oversized", "too long"),
        1,
    )
    headers = {name: value.decode() for name, value in letter.headers}
    HEADERS.validate(headers)
    assert headers.keys() == HEADERS.schema["properties"].keys()
    assert not HEADERS.is_valid(headers | {"error_class": "mood"})


def test_a_recommendation_that_is_none_is_refused() -> None:
    good = make_contracts.RECOMMENDATION.model_dump(mode="json")
    RECOMMENDATION.validate(good)
    Recommendation.model_validate(good)
    for name in good:
        assert not RECOMMENDATION.is_valid({k: v for k, v in good.items() if k != name})
    assert not RECOMMENDATION.is_valid(good | {"fallback": "mood"})
    assert not RECOMMENDATION.is_valid(good | {"items": [{"item_id": "1"}]})


def test_the_examples_are_messages() -> None:
    known = ASYNCAPI["components"]["messages"]
    for example in known["click"]["examples"]:
        CLICK.validate(example["payload"])
        assert decode_click(json.dumps(example["payload"]).encode()) == make_contracts.CLICK
    for example in known["recommendation"]["examples"]:
        RECOMMENDATION.validate(example["payload"])
        assert Recommendation.model_validate(example["payload"]) == make_contracts.RECOMMENDATION
    for example in known["profiledRecommendation"]["examples"]:
        PROFILED.validate(example["payload"])
    for example in known["relatedItems"]["examples"]:
        RELATED.validate(example["payload"])
        assert RelatedItems.model_validate(example["payload"]) == make_contracts.RELATED_ITEMS
    for example in known["experimentRecommendation"]["examples"]:
        IN_EXPERIMENT.validate(example["payload"])


def test_what_is_said_about_related_items_fits_its_schema() -> None:
    ids = [str(i) for i in range(1, 31)]
    for said in messages(related_lists(), ids, range(1, 31), "v", ItemStates(offset=3)):
        sent = json.loads(said.model_dump_json())
        RELATED.validate(sent)
        assert sent.keys() == set(RELATED.schema["required"])


@pytest.mark.parametrize(
    "extra",
    [{}, {"price": 12}, {"price": -1}, {"price": "12"}, {"available": 0}, {"tags": "t"},
     {"tags": [""]}, {"title": "t" * 501}, {"color": ["blue"]}, {"item_id": 17}, {"item_id": ""}],
)  # fmt: skip
def test_an_item_is_one_by_the_schema_as_by_the_code(extra: dict[str, Any]) -> None:
    item = make_contracts.ITEM.model_dump(mode="json", exclude_unset=True) | extra
    key = str(item["item_id"]).encode()
    try:
        decode_item(key, json.dumps(item).encode())
    except BadItem:
        assert not ITEM.is_valid(item)
    else:
        ITEM.validate(item)


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


@pytest.mark.parametrize("reference", sorted(set(references(ASYNCAPI))))
def test_a_reference_leads_somewhere(reference: str) -> None:
    file, _, pointer = reference.partition("#")
    target = json.loads((DOCS / file).read_text()) if file else ASYNCAPI
    for part in pointer.strip("/").split("/") if pointer else []:
        target = target[part]
    assert target


def test_the_document_names_our_topics_and_keys() -> None:
    kafka = KafkaSettings()
    addresses = {channel["address"] for channel in ASYNCAPI["channels"].values()}
    assert addresses == {*kafka.topics, kafka.related_topic, "{topic}"}
    actions = {name: one["action"] for name, one in ASYNCAPI["operations"].items()}
    assert actions == {
        "receiveClick": "receive",
        "sendRecommendation": "send",
        "sendExperimentRecommendation": "send",
        "sendProfiledRecommendation": "send",
        "sendExploredRecommendation": "send",
        "sendDeadLetter": "send",
        "receiveItem": "receive",
        "sendRelatedItems": "send",
    }
    config = ASYNCAPI["channels"]["items"]["bindings"]["kafka"]
    assert config["partitions"] == 1
    assert config["topicConfiguration"]["cleanup.policy"] == ["compact"]


def test_the_openapi_document_is_valid() -> None:
    assert [error.message for error in OpenAPIV31SpecValidator(OPENAPI).iter_errors()] == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda paths: paths["/models"]["get"]["responses"].update({"200": {}}),
        lambda paths: paths["/denied/{item_id}"]["put"].pop("parameters"),
        lambda paths: paths["/clicks"]["post"].update(operationId="list_models"),
    ],
    ids=["a response without a description", "no parameter of the path", "an operation id twice"],
)
def test_an_error_of_the_openapi_document_is_found(spoil: Callable[[Any], Any]) -> None:
    wrong = copy.deepcopy(OPENAPI)
    spoil(wrong["paths"])
    assert list(OpenAPIV31SpecValidator(wrong).iter_errors())
