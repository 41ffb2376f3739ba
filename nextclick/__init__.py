"""A streaming, event-driven session recommender: clicks in on Kafka, recommendations out.

    clicks = nextclick.read_clicks("clicks.csv")
    recommender = nextclick.fit(clicks)
    recommender.recommend(["Puppy Food", "Food Bowl"], k=5)

docs/python.md documents every name. A name is imported at its first use, because importing torch
takes seconds and most commands do not need it.

The folders beside this file are links to those at the top of the repository. So an installed
nextclick, and a checkout of it, have one top-level package, which cannot collide with a `services`
package of the user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nextclick.interface.clicks import read_clicks, read_items
    from nextclick.interface.recommender import Recommender, open_registry
    from nextclick.interface.streams import publish_clicks, recommendations
    from nextclick.interface.training import evaluate, fit
    from nextclick.shared.errors import NextclickError
    from nextclick.shared.runtime.settings import KafkaSettings
    from nextclick.shared.schemas import Click, Item, Recommendation

    __version__: str

__all__ = [
    "Click",
    "Item",
    "KafkaSettings",
    "NextclickError",
    "Recommendation",
    "Recommender",
    "__version__",
    "evaluate",
    "fit",
    "open_registry",
    "publish_clicks",
    "read_clicks",
    "read_items",
    "recommendations",
]

_MODULES = {
    "Click": "shared.schemas",
    "Item": "shared.schemas",
    "KafkaSettings": "shared.runtime.settings",
    "NextclickError": "shared.errors",
    "Recommendation": "shared.schemas",
    "Recommender": "interface.recommender",
    "evaluate": "interface.training",
    "fit": "interface.training",
    "open_registry": "interface.recommender",
    "publish_clicks": "interface.streams",
    "read_clicks": "interface.clicks",
    "read_items": "interface.clicks",
    "recommendations": "interface.streams",
}


def __getattr__(name: str) -> object:
    """Import a name of `__all__` at its first use (PEP 562)."""
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("nextclick")
    elif name in _MODULES:
        from importlib import import_module

        try:
            value = getattr(import_module(f"nextclick.{_MODULES[name]}"), name)
        except ModuleNotFoundError as error:
            from nextclick.shared.runtime.extras import missing_extra

            raise (missing_extra(error) or error) from None
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
