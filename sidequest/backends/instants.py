"""THE STORE. Instants and spans, as whole numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MILLISECOND = timedelta(milliseconds=1)


def milliseconds(span: timedelta | None) -> int | None:
    """Rounded up: the shortest timeout must not become none at all."""
    return None if span is None else -(-span // MILLISECOND)
