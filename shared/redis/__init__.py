"""Session state in Redis. The only package that imports redis."""

from nextclick.shared.redis.sessions import (
    ENTRIES_KEPT,
    MAX_UNCOMMITTED_CLICKS_PER_USER,
    MemorySessions,
    RedisSessions,
    Session,
    SessionStore,
    session_store,
)

__all__ = [
    "ENTRIES_KEPT",
    "MAX_UNCOMMITTED_CLICKS_PER_USER",
    "MemorySessions",
    "RedisSessions",
    "Session",
    "SessionStore",
    "session_store",
]
