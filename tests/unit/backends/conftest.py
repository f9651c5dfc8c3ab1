"""These tests run in virtual time, too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.unit.engine import virtual_time


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, Mapping[str, Any]]:
    return virtual_time.BACKEND
