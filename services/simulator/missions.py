"""The missions world: shoppers with intents, so that the order of clicks is informative. Pure.

A session is one mission, such as setting up a feeding station: three openers in a fixed order,
then one of two closers, and perhaps the other. Some clicks are *detours* to an item that the
persona likes; the mission then makes no progress. After any click the shopper may leave.

Time is counted in ticks of one click. A few shoppers are active and click in turn, so pauses within
a session are short. A shopper who leaves stays away for long: at one click per second, for more
than half an hour.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

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
    # For each step: index of its product in the mission, and P(next step).
    (0, {1: 1.0}),
    (1, {2: 1.0}),
    (2, {3: 0.5, 4: 0.5}),
    (3, {5: SECOND}),
    (4, {6: SECOND}),
    (4, {}),
    (3, {}),
)

CONVERSION = {"purchase": (0.02, 0.4), "cart": (0.05, 0.2)}
"""Event type → P(a click on a product is of this type), for most products and for BARGAINS."""
BARGAINS = 3
"""Every third product of the assortment is a bargain."""

_ACTIVE, _RESTING = 0.05, 0.7
"""Shares of the users: in a session, and away without a chance to return soon."""
_ROUNDS = 200
"""Clicks of each active user in one chunk of traffic."""


class MissionWorld:
    """The shop, its shoppers and their click probabilities; all determined by `seed`."""

    def __init__(
        self,
        seed: int = 42,
        users: int = 1000,
        mission_popularity: Mapping[str, float] | None = None,
    ) -> None:
        """Draw the shoppers' personas. `users` must be at least 20.

        mission_popularity: mission name → factor on how often it is begun. Products that occur only
        in missions with factor 0 are never clicked.
        """
        self.users = users
        self.item_ids = [name for category in CATEGORIES for name in PRODUCTS[category]]
        self.category: IntArray = np.repeat(np.arange(len(CATEGORIES)), 10)
        """Shape [products], index into CATEGORIES."""
        self.persona: IntArray = np.random.default_rng(seed).integers(0, len(PERSONAS), users)
        """Shape [users], index into PERSONAS."""
        factors = np.array([(mission_popularity or {}).get(name, 1.0) for name in MISSIONS])
        click_probability = np.array([CLICK_PROBABILITY[p] for p in PERSONAS])[:, self.category]
        self.missions: IntArray = np.array(
            [
                [self.item_ids.index(name) for name in (*m.openers, *m.closers)]
                for m in MISSIONS.values()
            ]
        )
        """Shape [missions, 5], index into item_ids."""
        unsold = np.setdiff1d(self.missions[factors == 0], self.missions[factors > 0])
        sold = ~np.isin(np.arange(len(self.item_ids)), unsold)
        self.next_click: FloatArray = _shares(click_probability * sold)
        """Shape [personas, products]: P(item | detour), as P(next click) in the source world."""
        self.mission_shares: FloatArray = _shares(
            click_probability[:, self.missions].mean(axis=2) * factors
        )
        """Shape [personas, missions]: P(a session's mission | persona)."""
        self.chain = mission_chain(self.missions, self.next_click, self.mission_shares)

    def traffic(self, seed: int) -> Iterator[Clicks]:
        """Generate clicks without end, in chunks; the same seed gives the same clicks."""
        rng = np.random.default_rng(seed)
        states = len(self.chain.end)
        names = np.array(self.item_ids, object)
        click = sampler(self.chain.emission.reshape(-1, len(names)))
        begin = sampler(self.chain.start)
        move = sampler(np.column_stack([self.chain.transition, self.chain.end]))

        everyone = rng.permutation(self.users)
        active, resting = int(self.users * _ACTIVE), int(self.users * _RESTING)
        user, away = everyone[:active], everyone[active:].tolist()
        absent = _AbsentShoppers(resting=away[:resting], rested=away[resting:])
        state = begin(self.persona[user], rng.random(active, np.float32))
        for chunk in itertools.count():
            users, items = np.empty((2, _ROUNDS, active), np.int64)
            uniforms = rng.random((_ROUNDS, 4, active), np.float32)
            for i, (click_uniform, move_uniform, begin_uniform, visitor_uniform) in enumerate(
                uniforms
            ):
                users[i] = user
                items[i] = click(self.persona[user] * states + state, click_uniform)
                state = move(state, move_uniform)
                free = np.flatnonzero(state == states)
                for slot in free.tolist():
                    user[slot] = absent.swap(int(user[slot]), float(visitor_uniform[slot]))
                state[free] = begin(self.persona[user[free]], begin_uniform[free])
            ticks = np.arange(users.size) + chunk * users.size
            yield Clicks(ticks, users.ravel(), names[items.ravel()])

    def clicks(self, count: int, seed: int) -> Clicks:
        """The first `count` clicks of `traffic(seed)`."""
        per_chunk = _ROUNDS * int(self.users * _ACTIVE)
        chunks = itertools.islice(self.traffic(seed), count // per_chunk + 1)
        return Clicks(*(np.concatenate(column)[:count] for column in zip(*chunks, strict=True)))

    def event_types(self, clicks: Clicks, seed: int) -> npt.NDArray[np.object_]:
        """Draw an event type for each click: view, cart or purchase. Shape [N].

        Few products sell well (CONVERSION): what is bought is not what is looked at most. The
        clicks themselves do not depend on it.
        """
        product = {name: row for row, name in enumerate(self.item_ids)}
        rows = np.array([product[item] for item in clicks.items], np.int64)
        bargain = (rows % BARGAINS == BARGAINS - 1).astype(np.int64)
        uniform = np.random.default_rng(seed).random(len(rows))
        purchase, cart = (np.array(CONVERSION[name])[bargain] for name in ("purchase", "cart"))
        types = np.where(uniform < purchase + cart, "cart", "view")
        return np.where(uniform < purchase, "purchase", types).astype(object)

    def next_click_given_history(self, histories: IntArray, rollover: float = 1.0) -> FloatArray:
        """Compute the exact P(next click | history): the ceiling for any recommender.

        histories: shape [B, L], rows of `item_ids`, left-padded with 0. Returns shape
        [B, items].
        rollover: share of the pauses between sessions after which the history continues. It is 1 if
        no pause exceeds the session gap, as in fast traffic or with a gap of 0; the next click may
        then begin another mission. It is 0 if every pause exceeds it, as at one click per second
        with a gap of half an hour; the next click is then one of the same session, because the
        first click of a session has no history.

        A history of fewer than 10 clicks began with a session. One of 10 may begin anywhere in a
        session, and is treated as a random one of all such histories. With rollover, this is exact
        only after a while, because a shopper's first history of 10 begins with a session.
        """
        personas = np.bincount(self.persona, minlength=len(PERSONAS)) / self.users
        return self.chain.next_click(personas, histories, rollover, HISTORY_LENGTH)


class _AbsentShoppers:
    """The shoppers who are away. A shopper who leaves cannot return until as many others have left
    as `resting` holds; after that, the shopper may return at any time."""

    def __init__(self, resting: Sequence[int], rested: list[int]) -> None:
        self._resting = deque(resting)
        self._rested = rested

    def swap(self, leaver: int, uniform: float) -> int:
        """Add a shopper who leaves, return one who comes back; `uniform` in [0, 1) selects whom."""
        self._resting.append(leaver)
        place = int(uniform * len(self._rested))
        visitor, self._rested[place] = self._rested[place], self._resting.popleft()
        return visitor


def mission_chain(missions: IntArray, next_click: FloatArray, mission_shares: FloatArray) -> Chain:
    """The hidden Markov model of the world; a state is (mission, step, detour or not).

    missions: shape [missions, 5], indices of each mission's items.
    next_click: shape [personas, items], P(item | detour).
    mission_shares: shape [personas, missions], P(mission | persona).
    """
    kinds = np.array([1.0 - DETOUR, DETOUR])
    steps = len(STEPS)
    following = np.zeros((steps, 2, steps))
    """P(next step | step, detour or not, the shopper stays)."""
    for step, (_, next_steps) in enumerate(STEPS):
        following[step, 0, list(next_steps)] = list(next_steps.values())
        following[step, 1, step] = 1.0
    within = (1.0 - LEAVE) * np.kron(following.reshape(-1, steps), kinds)

    personas = len(mission_shares)
    emission = np.zeros((personas, len(missions), steps, 2, next_click.shape[1]))
    for mission, products in enumerate(missions):
        for step, (place, _) in enumerate(STEPS):
            emission[:, mission, step, 0, products[place]] = 1.0
            emission[:, mission, step, 1] = next_click
    return Chain(
        start=np.kron(mission_shares, np.kron(np.eye(steps)[0], kinds)).astype(np.float64),
        transition=np.kron(np.eye(len(missions)), within).astype(np.float64),
        emission=emission.reshape(personas, -1, next_click.shape[1]),
    )


def _shares(weights: FloatArray) -> FloatArray:
    """Normalise each row to the sum 1."""
    shares: FloatArray = weights / weights.sum(axis=1, keepdims=True)
    return shares
