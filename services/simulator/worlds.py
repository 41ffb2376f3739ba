"""The simulated worlds, by the name that a person types."""

from __future__ import annotations

from nextclick.services.simulator.missions import MissionWorld
from nextclick.services.simulator.shop import Clicks
from nextclick.services.simulator.world import World
from nextclick.shared.errors import ConfigurationError


def world(name: str, seed: int) -> World | MissionWorld:
    """Make a world; raises ConfigurationError that lists them."""
    match name:
        case "missions":
            return MissionWorld(seed)
        case "source":
            return World(seed)
    raise ConfigurationError(f"--world {name}: use missions or source")


def historic_clicks(world: World | MissionWorld, interactions: int, seed: int) -> Clicks:
    """Draw a log: the source's own in its world, whose generator is seeded by the world."""
    if isinstance(world, World):
        return world.source_clicks(interactions)
    return world.clicks(interactions, seed)
