"""Reads session files as a log: `train_sessions.txt` and `test_sessions.txt` in one folder.

One session per line, item ids separated by blanks, oldest session and oldest click first, a common
form of the public session data sets. There are no users and times, so every line becomes one user
with one session.

Problems are counted and reported by line number. A test click with an invalid item id stays a case,
and is a miss, so that a broken file never improves a result.
"""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nextclick.shared.data_problems import Problem, Problems, invalid_item_id_reason
from nextclick.shared.errors import ConfigurationError
from nextclick.trainer.data.dataset import INVALID_ITEM, ClickLog, Split, without_invalid_items

TRAIN = "train_sessions.txt"
TEST = "test_sessions.txt"

_BLANKS = bytes.maketrans(b"\t\r", b"  ")  # nothing else that Python takes for white space


class Session(NamedTuple):
    """One line."""

    line: int
    items: list[str]
    """Item ids; INVALID_ITEM for invalid ones."""


def is_session_folder(folder: Path) -> bool:
    """Whether a folder holds session files."""
    return (folder / TRAIN).exists() or (folder / TEST).exists()


def read_sessions(folder: Path) -> tuple[ClickLog, list[Problem]]:
    """Read both files; the last tenth of the training sessions is the validation split.

    Returns the log with its problems. Raises ConfigurationError if a file is missing, cannot be
    read, or has no training or test case.
    """
    problems = Problems()
    train = _parse(
        folder / TRAIN, problems, invalid_item="left out", single_click="only counted as a click"
    )
    test = _parse(
        folder / TEST,
        problems,
        invalid_item="a miss as a target, unknown in a history",
        single_click="no next click, so not a case",
    )
    learnable = [[item for item in session.items if item != INVALID_ITEM] for session in train]
    catalogue = {item for items in learnable for item in items}
    if len(catalogue) < 2 or not any(len(items) > 1 for items in learnable):
        raise ConfigurationError(f"{folder / TRAIN} holds no session of two clicks on two items")
    if not any(len(session.items) > 1 for session in test):
        raise ConfigurationError(f"{folder / TEST} holds no session of two clicks: no test case")
    for session in test:
        for item in session.items:
            if item != INVALID_ITEM and item not in catalogue:
                what = "item that no training session has"
                kept = "a miss as a target, unknown in a history"
                problems.add(TEST, what, kept, session.line)
    return _log(train, test), problems.listed()


def _parse(
    path: Path, problems: Problems, *, invalid_item: str, single_click: str
) -> list[Session]:
    """Split a file into sessions.

    invalid_item, single_click: the consequence to report for invalid ids, and for sessions of one
    click.
    """
    sessions = []
    ids: dict[bytes, tuple[str, str | None]] = {}
    try:
        with open(path, "rb") as file:
            for line, content in enumerate(file, start=1):
                if line == 1:
                    content = content.removeprefix(codecs.BOM_UTF8)
                tokens = content.rstrip(b"\n").translate(_BLANKS).split(b" ")
                items = []
                for token in filter(None, tokens):
                    if token not in ids:
                        ids[token] = _item_id(token)
                    item, flaw = ids[token]
                    if flaw:
                        problems.add(path.name, flaw, invalid_item, line)
                    items.append(item)
                if not items:
                    problems.add(path.name, "empty line", "no session, passed over", line)
                    continue
                if len(items) == 1:
                    problems.add(path.name, "session of one click", single_click, line)
                sessions.append(Session(line, items))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path} is missing: a folder of session files holds {TRAIN} and {TEST}"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read ({error})") from None
    return sessions


def _item_id(token: bytes) -> tuple[str, str | None]:
    """The item id and None, or INVALID_ITEM and the reason."""
    try:
        item = token.decode()
    except UnicodeDecodeError:
        return INVALID_ITEM, "item id that is not UTF-8"
    flaw = invalid_item_id_reason(item)
    return (INVALID_ITEM, flaw) if flaw else (item, None)


def _log(train: list[Session], test: list[Session]) -> ClickLog:
    sessions = [*train, *test]
    lengths = np.array([len(session.items) for session in sessions])
    users = np.repeat(np.arange(len(sessions)), lengths)
    items, item_ids = pd.factorize(
        np.array([item for session in sessions for item in session.items], object)
    )
    split = np.full(len(sessions), Split.TRAIN, np.int64)
    split[len(train) - len(train) // 10 :] = Split.VALIDATION
    split[len(train) :] = Split.TEST
    names = [f"{TRAIN}:{s.line}" for s in train] + [f"{TEST}:{s.line}" for s in test]
    log = ClickLog(
        users=users,
        items=items,
        starts=(np.cumsum(lengths) - lengths)[users],
        split=split[users],
        item_ids=[str(item) for item in item_ids],
        user_ids=np.array(names, object),
        first_timestamp=0,
        last_timestamp=0,
    )
    return without_invalid_items(log)
