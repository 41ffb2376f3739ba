"""Dead letters: listing them, showing one, and sending them to the clicks topic once more."""
