"""The tables, as a list of migrations. One that was released is never changed: append another."""

from __future__ import annotations

VERSIONS = (
    "CREATE TABLE IF NOT EXISTS schema_versions (version BIGINT PRIMARY KEY, applied_at BIGINT NOT NULL)"
)

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE api_keys (
            id TEXT PRIMARY KEY,
            name TEXT NOT NULL,
            digest TEXT NOT NULL,
            models TEXT NOT NULL,
            strategies TEXT NOT NULL,
            requests_per_minute BIGINT,
            tokens_per_minute BIGINT,
            tokens_per_month BIGINT,
            admin BIGINT NOT NULL,
            created_at BIGINT NOT NULL,
            expires_at BIGINT,
            revoked_at BIGINT
        )""",
        """CREATE TABLE usage_by_day (
            key_id TEXT NOT NULL,
            day TEXT NOT NULL,
            model TEXT NOT NULL,
            strategy TEXT NOT NULL,
            requests BIGINT NOT NULL,
            calls BIGINT NOT NULL,
            prompt_tokens BIGINT NOT NULL,
            completion_tokens BIGINT NOT NULL,
            estimated_calls BIGINT NOT NULL,
            PRIMARY KEY (key_id, day, model, strategy)
        )""",
        "CREATE INDEX usage_by_day_day ON usage_by_day (day)",
        # The last batch of usage that each process wrote: by it a process knows whether one arrived
        # whose commit it did not see.
        "CREATE TABLE usage_writers (writer TEXT PRIMARY KEY, batch BIGINT NOT NULL)",
    ),
    (
        # Responses that later requests continue. BYTEA: PostgreSQL's type for bytes; SQLite keeps bytes as
        # bytes in a column of any type.
        """CREATE TABLE responses (
            key TEXT PRIMARY KEY,
            value BYTEA NOT NULL,
            size BIGINT NOT NULL,
            created_at BIGINT NOT NULL
        )""",
        "CREATE INDEX responses_created_at ON responses (created_at, key, size)",
    ),
)
