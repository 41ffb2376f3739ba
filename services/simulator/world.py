"""The source's world: its clicks, and the best possible prediction of the next one. Pure.

50 products in five categories; 1,000 users, each with one of four personas. An *interaction* is a
uniformly random pair of user and product; it becomes a *click* with a probability that depends on
the persona and the category. Given the persona, clicks are independent, so their order carries no
information.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nextclick.services.simulator.shop import Clicks, FloatArray, IntArray

CATEGORIES = ("Fish Supplies", "Cat Food", "Dog Food", "Dog Toy", "Cat Toy")
CLICK_PROBABILITY = {
    #                   Fish  CatFood DogFood DogToy CatToy   (in the order of CATEGORIES)
    "new_puppy_parent": (0.02, 0.10, 0.40, 0.50, 0.05),
    "cat_connoisseur": (0.05, 0.55, 0.05, 0.02, 0.45),
    "budget_shopper": (0.20, 0.40, 0.25, 0.15, 0.20),
    "fish_hobbyist": (0.60, 0.10, 0.02, 0.02, 0.08),
}
PERSONAS = tuple(CLICK_PROBABILITY)

_CHUNK = 1_000_000
"""Interactions drawn at once by `traffic`; bounds the memory."""


class World:
    """The products, the users and their click probabilities; all determined by `seed`."""

    def __init__(self, seed: int = 42, products: int = 50, users: int = 1000) -> None:
        """Draw the world. `products` must be a multiple of the number of categories."""
        rng = np.random.default_rng(seed)
        labels = [c for c in CATEGORIES for _ in range(products // len(CATEGORIES))]
        shuffled = rng.permutation(labels)
        drawn = [str(rng.choice(PERSONAS)) for _ in range(users)]
        self._state_after_setup = rng.bit_generator.state

        self.products = products
        self.users = users
        self.item_ids = [str(product) for product in range(1, products + 1)]
        self.category: IntArray = np.array([CATEGORIES.index(c) for c in shuffled])
        """Shape [products], index into CATEGORIES of product id 1, 2, …"""
        self.persona: IntArray = np.array([PERSONAS.index(p) for p in drawn])
        """Shape [users], index into PERSONAS."""
        table = np.array([CLICK_PROBABILITY[p] for p in PERSONAS])
        self.click_probability: FloatArray = table[:, self.category]
        """Shape [personas, products]: P(click | persona, product)."""
        self.next_click: FloatArray = self.click_probability / self.click_probability.sum(
            axis=1, keepdims=True
        )
        """Shape [personas, products]: P(next clicked product | persona)."""

    def source_clicks(self, interactions: int) -> Clicks:
        """Draw one interaction at a time, as the source does, to reproduce its log exactly.

        As in the source, the random generator continues from its state after drawing the world.
        """
        rng = np.random.default_rng()
        rng.bit_generator.state = self._state_after_setup
        probability = self.click_probability[self.persona]  # [users, products]
        kept: list[tuple[int, int, int]] = []
        for i in range(interactions):
            user = int(rng.integers(0, self.users))
            item = int(rng.integers(1, self.products + 1))
            if rng.binomial(1, probability[user, item - 1]):
                kept.append((i, user, item))
        columns = np.array(kept, np.int64).reshape(-1, 3)
        return Clicks(columns[:, 0], columns[:, 1], columns[:, 2])

    def traffic(self, seed: int) -> Iterator[Clicks]:
        """Generate clicks without end, in chunks; the same seed gives the same clicks."""
        rng = np.random.default_rng(seed)
        flat = self.click_probability[self.persona].ravel().astype(np.float32)
        done = 0
        while True:
            pair = rng.integers(0, self.users * self.products, _CHUNK, dtype=np.int32)
            clicked = np.flatnonzero(rng.random(_CHUNK, dtype=np.float32) < flat[pair])
            users, items = np.divmod(pair[clicked].astype(np.int64), self.products)
            yield Clicks(clicked + done, users, items + 1)
            done += _CHUNK

    def next_click_given_history(self, histories: IntArray) -> FloatArray:
        """Compute the Bayes-optimal P(next click | history): the ceiling for any recommender.

        histories: shape [B, L], product ids, 0 = padding. Returns shape [B, products]: P(next click
        | persona), averaged over the posterior of the persona. The prior is its share of the users.
        """
        log_next_click = np.concatenate(
            [np.zeros((len(PERSONAS), 1)), np.log(self.next_click)], axis=1
        )  # column 0: padding has no effect
        prior = np.bincount(self.persona, minlength=len(PERSONAS)) / self.users
        log_posterior = np.log(prior) + log_next_click[:, histories].sum(axis=2).T  # [B, personas]
        posterior = np.exp(log_posterior - log_posterior.max(axis=1, keepdims=True))
        posterior /= posterior.sum(axis=1, keepdims=True)
        mixture: FloatArray = posterior @ self.next_click
        return mixture
