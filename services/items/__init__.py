"""`nextclick items`: files of items onto the items topic (shared/items.py says what it is)."""
