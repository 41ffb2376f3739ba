from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from hashlib import blake2b

import pytest

from nextclick.shared.errors import ConfigurationError
from nextclick.shared.experiments import Experiment, check_name, parse_share

USERS = [f"user-{i}" for i in range(20_000)]
EXPERIMENT = Experiment("e", "5a17", "v1", "v2", 0.2, datetime(2026, 1, 31, tzinfo=UTC))


def test_an_arm_is_what_the_documentation_says() -> None:
    """`printf %s 5a17:alice | b2sum -l 64` says 4d09d7f339623b11: a."""
    for user in [*USERS[:100], "alice", "ünï", ""]:
        digest = blake2b(b"5a17:" + user.encode(), digest_size=8).hexdigest()
        is_b = int(digest, 16) / 2**64 < 0.2
        assert EXPERIMENT.arm_of(user) == ("b" if is_b else "a")
    pinned = [EXPERIMENT.arm_of(user) for user in USERS[:20]]
    assert "".join(pinned) == "abaaaaabaababaabaaaa"


def test_the_share_of_users_is_in_b_and_stays_there_when_the_share_grows() -> None:
    in_b = {user for user in USERS if EXPERIMENT.arm_of(user) == "b"}
    assert abs(len(in_b) / len(USERS) - 0.2) < 0.01
    grown = replace(EXPERIMENT, share=0.5)
    assert in_b < {user for user in USERS if grown.arm_of(user) == "b"}


def test_another_salt_splits_independently() -> None:
    other = replace(EXPERIMENT, salt="5a18", share=0.5)
    in_b = [user for user in USERS if EXPERIMENT.arm_of(user) == "b"]
    also = sum(other.arm_of(user) == "b" for user in in_b)
    assert abs(also / len(in_b) - 0.5) < 0.03


@pytest.mark.parametrize(
    ("text", "share"), [("20%", 0.2), ("0.2", 0.2), (" 50 % ", 0.5), ("1e-3", 0.001)]
)
def test_shares(text: str, share: float) -> None:
    assert parse_share(text) == pytest.approx(share)


@pytest.mark.parametrize(
    "text", ["0", "1", "0%", "100%", "20", "-1%", "nan", "nan%", "inf", "", "x"]
)
def test_no_shares(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is no experiment: b gets some of the users"):
        parse_share(text)


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "ä", "a/b"])
def test_no_names(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot name an experiment"):
        check_name(name)
