"""WORKER PROCESS ⇄ engine. What an engine's executor calls here.

The engine imports this to name it, and has no use for what it leads to.
"""
# ruff: noqa: PLC0415 -- see above

from __future__ import annotations

from typing import Any


def prepare_process(*handed: Any) -> None:
    """The executor's initializer."""
    from sidequest.worker import serve

    serve.prepare_process(*handed)


def serve() -> None:
    """The one long-lived call."""
    from sidequest.worker import serve as worker

    worker.serve()
