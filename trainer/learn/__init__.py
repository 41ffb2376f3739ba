"""Learning between retrains: the newest clicks of the event log become deltas of the base."""
