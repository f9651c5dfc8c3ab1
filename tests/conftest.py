"""What all tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Last on the path: an installed sidequest wins over the checkout, and `tests.…` can be imported by
# tests and by the processes that they start.
sys.path.append(str(Path(__file__).parent.parent))

pytest_plugins = ["tests.servers.plugin"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--chaos-scale",
        metavar="X",
        type=float,
        default=1.0,
        help="how much of the chaos suite: 0.2 is a fifth",
    )


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Sidequest is asyncio-native: async tests run there and nowhere else."""
    return "asyncio"
