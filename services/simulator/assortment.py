"""Products and missions of the missions world. Data only."""

from __future__ import annotations

from typing import NamedTuple


class Mission(NamedTuple):
    """Products that are clicked together, by name."""

    openers: tuple[str, str, str]
    """Clicked first, in this order."""
    closers: tuple[str, str]
    """Clicked after the openers: one of the two, and then perhaps the other."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


# Ten products in each of the source's categories; accessories are in the best fitting one.
PRODUCTS = {
    "Fish Supplies": _names(
        "Aquarium, Gravel, Water Filter, Aquarium Heater, Aquarium Plants, Algae Scraper, "
        "Water Conditioner, Fish Flakes, Fish Net, Test Strips"
    ),
    "Cat Food": _names(
        "Kitten Food, Cat Milk, Wet Cat Food, Dry Cat Food, Cat Fountain, Hairball Paste, "
        "Cat Grass, Liver Snacks, Catnip Treats, Senior Cat Food"
    ),
    "Dog Food": _names(
        "Puppy Food, Food Bowl, Water Dispenser, Puppy Training Treats, Placemat for Food Bowls, "
        "Adult Dog Kibble, Dental Chews, Slow Feeder, Salmon Oil, Wet Dog Food"
    ),
    "Dog Toy": _names(
        "Flea & Tick Prevention, Dog Shampoo, Grooming Brush, Nail Clippers, Medicated Ear Wipes, "
        "Tick Tweezers, Dog Towel, Tennis Balls, Frisbee, Rope Toy"
    ),
    "Cat Toy": _names(
        "Litter Box, Scratching Post, Cat Tree, Cat Carrier, Feather Wand, Laser Pointer, "
        "Toy Mouse, Cat Tunnel, Window Perch, Cat Flap"
    ),
}

# Four pairs of missions share their openers, in opposite order, but not their closers.
MISSIONS = {
    "feeding station": Mission(
        openers=("Puppy Food", "Food Bowl", "Water Dispenser"),
        closers=("Puppy Training Treats", "Placemat for Food Bowls"),
    ),
    "growing up": Mission(
        openers=("Water Dispenser", "Food Bowl", "Puppy Food"),
        closers=("Adult Dog Kibble", "Dental Chews"),
    ),
    "pet hygiene": Mission(
        openers=("Flea & Tick Prevention", "Dog Shampoo", "Grooming Brush"),
        closers=("Nail Clippers", "Medicated Ear Wipes"),
    ),
    "back from the woods": Mission(
        openers=("Grooming Brush", "Dog Shampoo", "Flea & Tick Prevention"),
        closers=("Tick Tweezers", "Dog Towel"),
    ),
    "new kitten": Mission(
        openers=("Kitten Food", "Litter Box", "Scratching Post"),
        closers=("Feather Wand", "Cat Carrier"),
    ),
    "a room for the cat": Mission(
        openers=("Scratching Post", "Litter Box", "Kitten Food"),
        closers=("Cat Tree", "Cat Milk"),
    ),
    "first aquarium": Mission(
        openers=("Aquarium", "Gravel", "Water Filter"),
        closers=("Aquarium Heater", "Aquarium Plants"),
    ),
    "clear water": Mission(
        openers=("Water Filter", "Gravel", "Aquarium"),
        closers=("Algae Scraper", "Water Conditioner"),
    ),
    "fussy cat": Mission(
        openers=("Wet Cat Food", "Dry Cat Food", "Cat Fountain"),
        closers=("Hairball Paste", "Cat Grass"),
    ),
    "day in the park": Mission(
        openers=("Tennis Balls", "Frisbee", "Rope Toy"),
        closers=("Salmon Oil", "Slow Feeder"),
    ),
}
