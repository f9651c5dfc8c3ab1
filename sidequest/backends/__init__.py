"""THE STORE. The only code that talks to a database; `make_backend(url)` picks the module."""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple

from sidequest.backends.base import Backend
from sidequest.config import DatabaseURL
from sidequest.errors import ConfigError
from sidequest.jobs import checks


class Driver(NamedTuple):
    """Where the backend of a URL scheme is, and what has to be installed for it."""

    module: str
    backend: str
    extra: str


SQLITE = Driver("sidequest.backends.sqlite.backend", "SqliteBackend", "")
POSTGRES = Driver("sidequest.backends.postgres.backend", "PostgresBackend", "postgres")
MYSQL = Driver("sidequest.backends.mysql.backend", "MysqlBackend", "mysql")
MONGO = Driver("sidequest.backends.mongo.backend", "MongoBackend", "mongo")

BACKENDS = {"sqlite": SQLITE, "postgresql": POSTGRES, "mysql": MYSQL, "mongodb": MONGO, "mongodb+srv": MONGO}
"""URL scheme → backend. A module, and its driver, is imported only when a URL names it."""


def make_backend(url: str, role: str = "app", pool: object | None = None) -> Backend:
    """The backend for this URL, not yet opened. `role` is `app` or `engine`.

    `pool` is the app's own pool, engine or client for this database, to be used in place of own
    connections. Raises ConfigError for a URL or a scheme that is not known, and for a driver that
    is not installed; TypeError for a pool of another kind.
    """
    parsed = DatabaseURL.parse(url)
    if parsed.scheme not in BACKENDS:
        schemes = ", ".join(f"{scheme}://" for scheme in BACKENDS)
        raise ConfigError(
            f"url: {parsed.scheme}:// is not supported; there is {schemes}{checks.nearest(parsed.scheme, BACKENDS)}"
        )
    driver = BACKENDS[parsed.scheme]
    try:
        backend: type[Backend] = getattr(import_module(driver.module), driver.backend)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("sidequest"):
            raise
        raise ConfigError(
            f"url: {parsed.scheme}:// needs the package {error.name}, which is not installed; "
            f"run: pip install 'sidequest[{driver.extra}]'"
        ) from error
    return backend(parsed, role, pool=pool)
