"""The session worker: one click in, one recommendation out."""
