"""What all tests share."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

# Last on the path: an installed sidequest wins over the checkout, and `tests.…` can be imported by
# tests and by the processes that they start.
sys.path.append(str(Path(__file__).parent.parent))

pytest_plugins = ["tests.servers.plugin"]
EVENT_LOOP = "SIDEQUEST_EVENT_LOOP"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--chaos-scale",
        metavar="X",
        type=float,
        default=1.0,
        help="how much of the chaos suite: 0.2 is a fifth",
    )
    parser.addoption(
        "--event-loop",
        choices=("asyncio", "uvloop"),
        default="asyncio",
        help="what engines, workers and the tests themselves run on",
    )


def pytest_configure(config: pytest.Config) -> None:
    os.environ[EVENT_LOOP] = config.getoption("--event-loop")  # uvloop is installed: nothing may depend on that


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Sidequest is asyncio-native: async tests run there and nowhere else."""
    return "asyncio", {"use_uvloop": os.environ[EVENT_LOOP] == "uvloop"}
