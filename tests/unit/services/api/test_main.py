"""The page's baseline."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from nextclick.bench.models import random_checkpoint
from nextclick.services.api.main import most_popular
from nextclick.shared.items import ItemStates
from nextclick.shared.model import Scorer


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
