"""What a shop says about an item as numbered features, for the embeddings of a model. Pure.

Names and words are hashed into a fixed number of buckets (Weinberger et al., "Feature Hashing for
Large Scale Multitask Learning", 2009), so nothing has to be listed in a checkpoint. The hash is
BLAKE2b of normalised text: the same in every process and Python version.

An item has features of up to five kinds. Each kind has the same total weight, spread over its
features, so that a long title does not outweigh a category:

    category, tag     each name
    price             the bucket between two bounds, which a fit takes from the prices of its items
    word              each word of the title
    trigram           three letters in a row of these words, which begin with < and end with >, so
                      that an inflected or compound word resembles another (Bojanowski et al.,
                      "Enriching Word Vectors with Subword Information", 2017)
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import islice
from types import MappingProxyType

MAX_COLD_ITEMS = 10_000
"""Most items without a click that a model takes in, unless the settings say otherwise."""
MAX_CATEGORIES = 8
MAX_TAGS = 8
MAX_WORDS = 12
MAX_TRIGRAMS = 24
MAX_FEATURES = MAX_CATEGORIES + MAX_TAGS + 1 + MAX_WORDS + MAX_TRIGRAMS
"""Most features of an item: what a shop says beyond is not learned."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class ItemContent:
    """What a model learns about an item beside its clicks."""

    categories: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    price: float | None = None
    """None: not known."""
    title: str = ""
    available: bool = True
    """Whether lists may hold it."""

    @property
    def is_known(self) -> bool:
        """Whether it has a feature."""
        named = self.categories or self.tags or self.price is not None
        return bool(named or _WORD.search(self.title))


Contents = Mapping[str, ItemContent]
"""Item id → what a shop says about it."""
NO_CONTENTS: Contents = MappingProxyType({})


def features_of(
    content: ItemContent, price_bounds: Sequence[float], buckets: int
) -> list[tuple[int, float]]:
    """The features of an item: pairs of a bucket, 1 … buckets, and a weight; at most MAX_FEATURES.

    price_bounds: ascending; a price is in the bucket of how many of them it reaches.
    """
    words = list(dict.fromkeys(islice(_words(content.title), MAX_WORDS)))
    price = [] if content.price is None else [str(bisect_right(price_bounds, content.price))]
    kinds: tuple[tuple[str, Iterable[str]], ...] = (
        ("category", map(_normalised, content.categories[:MAX_CATEGORIES])),
        ("tag", map(_normalised, content.tags[:MAX_TAGS])),
        ("price", price),
        ("word", words),
        ("trigram", islice(_trigrams(words), MAX_TRIGRAMS)),
    )
    features = []
    for kind, names in kinds:
        different = list(dict.fromkeys(names))
        features += [(bucket_of(kind, name, buckets), 1 / len(different)) for name in different]
    return features


@lru_cache(maxsize=100_000)
def bucket_of(kind: str, name: str, buckets: int) -> int:
    """The bucket of a feature, 1 … buckets."""
    # A title may hold half a surrogate pair, which is no UTF-8.
    digest = blake2b(f"{kind}\0{name}".encode(errors="surrogatepass"), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "little") % buckets


def _normalised(text: str) -> str:
    """Without what writers do not mean: case, width, ligatures, spaces around it."""
    return unicodedata.normalize("NFKC", text).casefold().strip()


def _words(title: str) -> Iterable[str]:
    return (match.group() for match in _WORD.finditer(_normalised(title)))


def _trigrams(words: Iterable[str]) -> Iterable[str]:
    for word in words:
        marked = f"<{word}>"
        yield from (marked[start : start + 3] for start in range(len(marked) - 2))
