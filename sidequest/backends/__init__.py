"""THE STORE. The only code that talks to a database; `open_backend(url)` picks the module."""

from __future__ import annotations

from importlib import import_module

from sidequest.backends.base import Backend
from sidequest.config import DatabaseURL
from sidequest.errors import ConfigError
from sidequest.jobs import checks

BACKENDS = {"sqlite": ("sidequest.backends.sqlite", "SqliteBackend")}
"""URL scheme → module and class. Imported only when a URL names it."""


def make_backend(url: str, role: str = "app") -> Backend:
    """The backend for this URL, not yet opened. `role` is `app` or `engine`.

    Raises ConfigError for a URL or a scheme that is not known.
    """
    parsed = DatabaseURL.parse(url)
    if parsed.scheme not in BACKENDS:
        schemes = ", ".join(f"{scheme}://" for scheme in BACKENDS)
        raise ConfigError(
            f"url: {parsed.scheme}:// is not supported; there is {schemes}{checks.nearest(parsed.scheme, BACKENDS)}"
        )
    module, name = BACKENDS[parsed.scheme]
    backend: type[Backend] = getattr(import_module(module), name)
    return backend(parsed, role)
