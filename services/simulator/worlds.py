"""The simulated worlds by name."""

from __future__ import annotations

from nextclick.services.simulator.missions import MissionWorld
from nextclick.services.simulator.shop import Clicks
from nextclick.services.simulator.variants import VariantsWorld
from nextclick.services.simulator.world import World
from nextclick.shared.errors import ConfigurationError


def world(name: str, seed: int) -> World | MissionWorld:
    """Make the world with a name; raises ConfigurationError for an unknown name."""
    match name:
        case "missions":
            return MissionWorld(seed)
        case "source":
            return World(seed)
    raise ConfigurationError(
        f"--world {name}: use missions or source; variants goes with simulate --log only"
    )


def logged_world(name: str, seed: int) -> World | MissionWorld | VariantsWorld:
    """Make a world that has a log of past clicks, perhaps no live ones.

    Raises ConfigurationError for an unknown name.
    """
    return VariantsWorld(seed) if name == "variants" else world(name, seed)


def historic_clicks(
    world: World | MissionWorld | VariantsWorld, interactions: int, seed: int
) -> Clicks:
    """Generate a log of past clicks; in the source world the source's own (`seed` is unused)."""
    if isinstance(world, World):
        return world.source_clicks(interactions)
    return world.clicks(interactions, seed)
