"""Forgetting a user: sessions, event log, dead letters, models; and a certificate of it."""
