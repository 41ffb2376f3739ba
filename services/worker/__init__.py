"""The worker: answers every click with a recommendation."""
