"""Dead letters: list them, show one, and redrive them, that is, send them to the clicks topic."""
