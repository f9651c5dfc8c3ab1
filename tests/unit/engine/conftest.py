"""Engine tests run in virtual time: an hour of waiting takes no time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from sidequest.engine import crew, dispatcher, heartbeat, lane, lanes, leases, outbox, rescue, stops, trouble, watchdog
from sidequest.wire import wake_socket
from tests.unit.engine import virtual_time


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, Mapping[str, Any]]:
    return virtual_time.BACKEND


@pytest.fixture(autouse=True)
def _virtual_clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (crew, dispatcher, heartbeat, lane, lanes, leases, outbox, rescue, stops, trouble, wake_socket, watchdog):
        for name in ("monotonic", "epoch_us"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(virtual_time, name))
