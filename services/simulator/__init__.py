"""Simulated shops with known click probabilities ("worlds"), and a publisher of their clicks."""
