"""Lists with drawn places, from a worker to an off-policy estimate, with real servers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nextclick.services.evaluate.off_policy import Log
from nextclick.shared.kafka import TopicReader, ensure_topics
from nextclick.shared.model import Scorer
from nextclick.shared.registry import Registry
from nextclick.shared.runtime.settings import PREFIX, KafkaSettings, SessionSettings
from nextclick.shared.schemas import decode_extended
from tests.conftest import Launch
from tests.integration.shells import Terminals, typed
from tests.integration.traffic import ITEMS, Shop, make_clicks, publish_model
from tests.waiting import until

PAGE = Path(__file__).parents[2] / "docs" / "exploration.md"
PROFILES = {"news": {"exploration": {"slots": 2, "candidates": ITEMS}}}
CLICKS = 2000


@pytest.mark.long
def test_a_log_of_drawn_lists_says_what_another_model_would_be_worth(
    kafka: KafkaSettings, name: str, launch: Launch, logs: Callable[[str], str], tmp_path: Path
) -> None:
    topic = f"recommendations.news-{name}"
    ours = {
        f"{PREFIX}PROFILES": json.dumps(PROFILES),
        f"{PREFIX}KAFKA__PROFILE_TOPICS": json.dumps({topic: "news"}),
    }
    other, current = (publish_model(tmp_path / "registry", seed) for seed in (1, 2))
    assert launch("topics", "create", **ours).wait(60) == 0
    shop, lines = Shop(kafka), list[bytes]()
    ensure_topics(kafka, [topic])
    with closing(TopicReader(kafka, [topic])) as reader:

        def read() -> bool:
            lines.extend(m.value for m in reader.poll(timeout=0.2) if m.value)
            return len(lines) >= CLICKS

        launch("worker", **ours)
        shop.send(make_clicks(CLICKS, users=200, seed=1))
        until(read, "all answers", 90)

    def report(data: str) -> dict[str, Any]:
        file = tmp_path / "report.json"
        versions = ("--versions", f"current,{other}")
        command = ("evaluate", data, "--off-policy", *versions, "--json", str(file))
        assert launch(*command, **ours).wait(90) == 0, logs("evaluate")
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    of_topic = report(topic)
    answers = [json.loads(line) for line in lines]
    drawn = [a for a in answers if "exploration" in a]
    assert len(drawn) == CLICKS, "popular lists are drawn, too"
    assert set(of_topic["models"]) == {current, other}
    assert CLICKS * 0.8 < of_topic["lists"] <= CLICKS
    assert of_topic["users"] == len({a["user_id"] for a in answers})
    # What is clicked here does not depend on lists, so it is known what each model is worth.
    log = Log(int(SessionSettings().gap_seconds * 1000))
    for line in lines:
        log.add(decode_extended(line))
    judged = log.judged()
    assert of_topic["shown"]["mean"] == np.mean([one.clicked in one.shown for one in judged])
    for version, found in of_topic["models"].items():
        scorer = Scorer(Registry(str(tmp_path / "registry")).load(version), torch.device("cpu"), 10)
        lists = scorer.recommend([one.history for one in judged])
        worth = np.mean(
            [
                one.clicked in {item.item_id for item in ranking.items}
                for one, ranking in zip(judged, lists, strict=True)
            ]
        )
        assert found["support"]["low"] < 1 <= found["support"]["high"]
        for estimate in found["by"].values():
            assert estimate["low"] < worth < estimate["high"]
    assert not any("could show" in note for note in of_topic["notes"])

    file = tmp_path / "answers.jsonl"
    file.write_bytes(b"\n".join([*lines, b"no message", b""]))
    of_file = report(str(file))
    for version, found in of_topic["models"].items():  # in another order, so rounded otherwise
        for name, estimate in found["by"].items():
            assert of_file["models"][version]["by"][name] == pytest.approx(estimate)
    assert of_file["notes"][0] == "1 × no recommendation: left out"

    assert launch("evaluate", kafka.recommendations_topic, "--off-policy", **ours).wait(60) == 2
    assert "0 lists with drawn places" in logs("evaluate")


@pytest.mark.long
def test_the_page(terminals: Terminals) -> None:
    """docs/exploration.md, command by command, after the tutorial's first two steps."""
    terminals.stay("nextclick servers", "are up")
    terminals.say("nextclick simulate --log clicks.parquet --interactions 12000")
    said: dict[str, str] = {}
    first = ""
    for command in typed(PAGE):
        if command == "nextclick worker":
            terminals.stay(command, "assigned partitions")
            continue
        given = command.replace("--seconds 60", "--seconds 15").replace("FIRST", first)
        said[command] = terminals.say(given)
        if command == "nextclick models list":
            (first,) = {*re.findall(r"\d{8}T\d{6}-[0-9a-f]{4}", said[command])}
    (report,) = (said[command] for command in said if "--off-policy" in command)
    assert re.search(r"[\d,]+ lists with drawn places, of [\d,]+ users", report)
    assert first in report
    # It ranks the shop's clicks worse, which the log says without having shown its lists.
    rows = [line.split("│") for line in report.splitlines() if "│" in line]
    dr = {row[1].strip(): float(row[4]) for row in rows if row[1].strip()}
    (current,) = dr.keys() - {first, "as shown"}
    assert dr[first] < dr[current] - 3
