"""docs/tutorial.md, command by command, as somebody would type it."""

from __future__ import annotations

import json
import re
import shutil

import pytest

from tests.integration.shells import STAY, Terminals, typed
from tests.waiting import until


@pytest.mark.long
def test_the_tutorial(terminals: Terminals) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    signs = {
        "nextclick servers": "are up",
        "nextclick worker": "assigned partitions",
        "nextclick api": "serving model",
    }
    said: dict[str, str] = {}
    for command in typed()[:-1]:  # the last one collects for ever
        if command in STAY:
            said[command] = terminals.stay(command, signs[command])
            found = re.search(r"http://([^\s\"]+)", said[command])
            terminals.port = found[1] if found else terminals.port
        elif "--speed 100x" in command:
            said[command] = terminals.say(command.replace("100x", "max"))  # 100 s of the log in one
        elif command.startswith("curl") and "recommendations" in command:

            def knows_alice(command: str = command) -> bool:
                said[command] = terminals.say(command)
                return json.loads(said[command])["history"] == ["Puppy Food"]

            until(knows_alice, "the worker has counted the click")
        else:
            said[command] = terminals.say(command)
    assert typed()[-1] == "nextclick trainer"
    told = "\n".join(said.values())
    assert "20,000 usable clicks" in told
    assert "20,000 clicks imported" in told
    assert "published" in said["nextclick trainer --once"]
    answer = json.loads(said['curl -s "localhost:8000/recommendations/alice?k=3"'])
    assert len(answer["items"]) == 3
    assert answer["fallback"] is None
