"""`nextclick experiment report`: what a live experiment has shown so far (docs/ab-tests.md)."""
