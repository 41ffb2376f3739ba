"""The page's baseline, and the port."""

from __future__ import annotations

import select
import socket
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nextclick.bench.models import random_checkpoint
from nextclick.services.api.main import _listening, most_popular
from nextclick.shared.errors import ConfigurationError
from nextclick.shared.items import ItemStates
from nextclick.shared.model import Scorer
from nextclick.shared.runtime.settings import ApiSettings


def test_most_clicked_without_the_items_that_no_list_may_hold() -> None:
    scorer = Scorer(random_checkpoint(30), torch.device("cpu"), 12)
    slot: Any = SimpleNamespace(model=None)
    items: Any = SimpleNamespace(states=ItemStates())
    top = most_popular(slot, items)
    answers: Any = [None, None]
    assert top(answers) == [set(), set()]

    slot.model = SimpleNamespace(scorer=scorer)
    (first, second) = top(answers)
    assert first == second
    assert len(first) == 10
    gone = frozenset(list(first)[:3])
    items.states = ItemStates(withheld=gone)
    (first, _) = top(answers)
    assert len(first) == 10
    assert not first & gone


def test_processes_may_share_a_port_if_all_of_them_say_so() -> None:
    shared = ApiSettings(port=0, reuse_port=True)
    with closing(_listening(shared)) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"127.0.0.1:{port}: Address already in use"):
            _listening(ApiSettings(port=port))
        with closing(_listening(ApiSettings(port=port, reuse_port=True))) as second:
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(64)]
            accepted = {first: 0, second: 0}
            while sum(accepted.values()) < len(clients):
                for ready in select.select([first, second], [], [], 10)[0]:
                    ready.accept()[0].close()
                    accepted[ready] += 1
            for client in clients:
                client.close()
        assert all(accepted.values())
