"""A streaming, event-driven session recommender: clicks in on Kafka, recommendations out.

The folders beside this file are links to those at the top of the repository. So an installed
nextclick, and a checkout of it, have one top-level package, and collide with nobody's `services`.
"""

from importlib.metadata import version

__version__ = version("nextclick")
