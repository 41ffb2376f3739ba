"""A world with intent: shoppers come on missions, so the order of their clicks tells more. Pure.

A session is one mission, such as setting up a feeding station: three openers in a fixed order,
then one of two closers, perhaps the other. Now and then a click is a *detour* to something that
the shopper's persona likes, and the mission stands still; after any click the shopper may leave.

Time is counted in ticks, one click each. A few shoppers are active and click in turn, so pauses
inside a session are short. Who has left stays away for long: at a click a second, always for
more than half an hour.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from nextclick.services.simulator.assortment import MISSIONS, PRODUCTS
from nextclick.services.simulator.chain import Chain, sampler
from nextclick.services.simulator.shop import Clicks, FloatArray, IntArray
from nextclick.services.simulator.world import CATEGORIES, CLICK_PROBABILITY, PERSONAS
from nextclick.shared.windows import HISTORY_LENGTH

DETOUR = 0.15
"""P(a click is a detour)."""
LEAVE = 0.1
"""P(the shopper leaves after a click, the mission unfinished)."""
SECOND = 0.5
"""P(the second closer follows the first)."""
STEPS: tuple[tuple[int, dict[int, float]], ...] = (
    # Which product of its mission each step calls for, and P(the step that follows).
    (0, {1: 1.0}),
    (1, {2: 1.0}),
    (2, {3: 0.5, 4: 0.5}),
    (3, {5: SECOND}),
    (4, {6: SECOND}),
    (4, {}),
    (3, {}),
)

_ACTIVE, _RESTING = 0.05, 0.7
"""Shares of the users that are in a session, or away and not back for some time."""
_ROUNDS = 200
"""Clicks of each active user in one chunk of traffic."""


class MissionWorld:
    """The shop, its shoppers and the law by which they click; all fixed by `seed`."""

    def __init__(
        self, seed: int = 42, users: int = 1000, fashion: Mapping[str, float] | None = None
    ) -> None:
        """Draw the shoppers' personas. `users` is 20 or more.

        fashion: by the name of a mission, how many times more often than otherwise it is begun.
        With 0 nobody does, and products of such missions alone are not sold: nobody clicks them.
        """
        self.users = users
        self.item_ids = [name for category in CATEGORIES for name in PRODUCTS[category]]
        self.category: IntArray = np.repeat(np.arange(len(CATEGORIES)), 10)
        """Shape [products], index into CATEGORIES."""
        self.persona: IntArray = np.random.default_rng(seed).integers(0, len(PERSONAS), users)
        """Shape [users], index into PERSONAS."""
        wanted = np.array([(fashion or {}).get(name, 1.0) for name in MISSIONS])
        click_probability = np.array([CLICK_PROBABILITY[p] for p in PERSONAS])[:, self.category]
        self.missions: IntArray = np.array(
            [
                [self.item_ids.index(name) for name in (*m.openers, *m.closers)]
                for m in MISSIONS.values()
            ]
        )
        """Shape [missions, 5], index into item_ids."""
        unsold = np.setdiff1d(self.missions[wanted == 0], self.missions[wanted > 0])
        sold = ~np.isin(np.arange(len(self.item_ids)), unsold)
        self.next_click: FloatArray = _shares(click_probability * sold)
        """Shape [personas, products]: the source's law of the next click, here of a detour."""
        self.mix: FloatArray = _shares(click_probability[:, self.missions].mean(axis=2) * wanted)
        """Shape [personas, missions]: P(a session's mission | persona)."""
        self.chain = mission_chain(self.missions, self.next_click, self.mix)

    def traffic(self, seed: int) -> Iterator[Clicks]:
        """Draw clicks for ever, a chunk at a time; the same seed gives the same clicks."""
        rng = np.random.default_rng(seed)
        states = len(self.chain.end)
        names = np.array(self.item_ids, object)
        click = sampler(self.chain.emission.reshape(-1, len(names)))
        begin = sampler(self.chain.start)
        move = sampler(np.column_stack([self.chain.transition, self.chain.end]))

        everyone = rng.permutation(self.users)
        active, resting = int(self.users * _ACTIVE), int(self.users * _RESTING)
        user, away = everyone[:active], everyone[active:].tolist()
        crowd = _Shoppers(resting=away[:resting], rested=away[resting:])
        state = begin(self.persona[user], rng.random(active, np.float32))
        for chunk in itertools.count():
            users, items = np.empty((2, _ROUNDS, active), np.int64)
            lots = rng.random((_ROUNDS, 4, active), np.float32)
            for i, (click_lot, move_lot, begin_lot, visitor_lot) in enumerate(lots):
                users[i] = user
                items[i] = click(self.persona[user] * states + state, click_lot)
                state = move(state, move_lot)
                free = np.flatnonzero(state == states)
                for seat in free.tolist():
                    user[seat] = crowd.change(int(user[seat]), float(visitor_lot[seat]))
                state[free] = begin(self.persona[user[free]], begin_lot[free])
            ticks = np.arange(users.size) + chunk * users.size
            yield Clicks(ticks, users.ravel(), names[items.ravel()])

    def clicks(self, count: int, seed: int) -> Clicks:
        """Draw the first `count` clicks of the traffic with this seed."""
        per_chunk = _ROUNDS * int(self.users * _ACTIVE)
        chunks = itertools.islice(self.traffic(seed), count // per_chunk + 1)
        return Clicks(*(np.concatenate(column)[:count] for column in zip(*chunks, strict=True)))

    def next_click_given_history(self, histories: IntArray, rollover: float = 1.0) -> FloatArray:
        """Compute the exact P(next click | history): the ceiling for any recommender.

        histories: shape [B, L], rows of `item_ids`, left-padded with 0. Returns shape
        [B, items].
        rollover: the share of the pauses between sessions that do not cut the history. 1 where
        no pause is long enough, as in fast traffic or with a gap of 0: then the next click may
        be the first of another mission. 0 where every pause cuts, as at a click a second with
        a gap of half an hour: then the next click is one of the same session, because only
        such clicks have a history.

        A history of less than 10 clicks began with a session. One of 10 may begin anywhere, also
        with a session: it is seen as one of all the histories of 10 that there are. With
        rollover this is exact only after some time: the very first histories of 10 begin where
        the shopper began.
        """
        personas = np.bincount(self.persona, minlength=len(PERSONAS)) / self.users
        return self.chain.next_click(personas, histories, rollover, HISTORY_LENGTH)


class _Shoppers:
    """The shoppers who are away. Who left last rests until `resting` others have left; who is
    rested may come back at any time."""

    def __init__(self, resting: Sequence[int], rested: list[int]) -> None:
        self._resting = deque(resting)
        self._rested = rested

    def change(self, leaver: int, lot: float) -> int:
        """Take a leaver in and send another shopper out; `lot` in [0, 1) says whom."""
        self._resting.append(leaver)
        place = int(lot * len(self._rested))
        visitor, self._rested[place] = self._rested[place], self._resting.popleft()
        return visitor


def mission_chain(missions: IntArray, next_click: FloatArray, mix: FloatArray) -> Chain:
    """Write the story down as a hidden Markov model.

    missions: shape [missions, 5], the columns of `next_click` that each calls for.
    next_click: shape [personas, items], the law of a detour. mix: shape [personas, missions].
    A state is (mission, step, detour or not), counted in this order.
    """
    kinds = np.array([1.0 - DETOUR, DETOUR])
    steps = len(STEPS)
    following = np.zeros((steps, 2, steps))
    """P(the next step | the step, detour or not, the shopper stays)."""
    for step, (_, next_steps) in enumerate(STEPS):
        following[step, 0, list(next_steps)] = list(next_steps.values())
        following[step, 1, step] = 1.0
    within = (1.0 - LEAVE) * np.kron(following.reshape(-1, steps), kinds)

    emission = np.zeros((len(mix), len(missions), steps, 2, next_click.shape[1]))
    for mission, products in enumerate(missions):
        for step, (place, _) in enumerate(STEPS):
            emission[:, mission, step, 0, products[place]] = 1.0
            emission[:, mission, step, 1] = next_click
    return Chain(
        start=np.kron(mix, np.kron(np.eye(steps)[0], kinds)).astype(np.float64),
        transition=np.kron(np.eye(len(missions)), within).astype(np.float64),
        emission=emission.reshape(len(mix), -1, next_click.shape[1]),
    )


def _shares(weights: FloatArray) -> FloatArray:
    """Scale each row to the sum 1."""
    shares: FloatArray = weights / weights.sum(axis=1, keepdims=True)
    return shares
