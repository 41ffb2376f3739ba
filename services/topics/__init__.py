"""`nextclick topics check`: finds mistakes of producers in a sample of the clicks topic."""
