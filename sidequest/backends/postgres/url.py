"""THE STORE, on PostgreSQL: what a `postgresql://` URL says, checked before anything is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from sidequest.backends.options import LIMITS, limits, one_of
from sidequest.config import PREFIX, DatabaseURL
from sidequest.errors import ConfigError

OWN = ("application_name", *LIMITS, "prefix", "prepared_statements", "schema")
FILES = ("passfile", "sslcert", "sslcrl", "sslkey", "sslrootcert")
PASSED_ON = (
    "host", "krbsrvname", "options", "password", "port", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslmode",
    "sslpassword", "target_session_attrs", "user", *FILES,
)  # fmt: skip
"""They mean what they mean to `psql`, and asyncpg reads them."""
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
WRITABLE = ("any", "primary", "read-write")
"""Which servers of several are good enough; jobs cannot live on one that takes no writes."""
WORDS = {
    "sslmode": SSL_MODES, "target_session_attrs": WRITABLE,
    "ssl_min_protocol_version": TLS_VERSIONS, "ssl_max_protocol_version": TLS_VERSIONS,
}  # fmt: skip
SWITCH = ("on", "off")
HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\[\]:]*)(:\d{1,5})?")

ENGINE_POOL = 2
"""Its listener is one more, and so is the connection for its beats."""
SESSION = {
    # Compiling a statement takes longer than running it: 9 ms for a claim.
    "jit": "off",
    # A stricter level makes claims of several engines conflict.
    "default_transaction_isolation": "read committed",
    # A process that is frozen in a transaction must not hold its locks for ever.
    "idle_in_transaction_session_timeout": "60s",
}


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the server, and where the tables are."""

    connect: Mapping[str, Any]
    """The keyword arguments of `asyncpg.connect`."""
    command_timeout: float
    schema: str | None
    pool_size: int
    prepared_statements: bool
    """Off: every transaction may meet another server process, and nothing may be left behind in one (PgBouncer)."""
    files: Mapping[str, str]
    """Certificates, keys and password files, by their option."""

    def check_files(self) -> None:
        """Raise ConfigError for a file that is not there: asyncpg would say so in its own words, or not at all."""
        for option, path in self.files.items():
            if not Path(path).is_file():
                raise ConfigError(f"url: {option}: there is no file {path}")


def read_url(url: DatabaseURL, role: str) -> Access:
    """Raises ConfigError naming the option, and what would be right."""
    url.refuse_unknown_options((*OWN, *PASSED_ON))
    _check_hosts(url)
    for name, words in WORDS.items():
        one_of(url.options, name, words, default=words[0])
    schema = url.options.get("schema")
    if schema is not None and not PREFIX.fullmatch(schema):
        raise ConfigError(f"url: schema must be up to 41 lower-case letters, digits and _ , not {schema!r}")
    most = limits(url.options, role, ENGINE_POOL)
    prepared = one_of(url.options, "prepared_statements", SWITCH, default="on") == "on"
    passed_on = {name: value for name, value in url.options.items() if name in PASSED_ON}
    if "," in urlsplit(url.target).netloc or "," in url.options.get("host", ""):
        passed_on.setdefault("target_session_attrs", "read-write")
    connect = {
        "dsn": f"{url.target}?{urlencode(passed_on)}" if passed_on else url.target,
        "timeout": most.connect_timeout,
        "command_timeout": most.command_timeout,
        "statement_cache_size": 100 if prepared else 0,
        "server_settings": {
            "application_name": url.options.get("application_name", f"sidequest {role}"),
            **(SESSION if prepared else {}),
        },
    }
    return Access(
        connect=connect,
        command_timeout=most.command_timeout,
        schema=schema,
        pool_size=most.pool_size,
        prepared_statements=prepared,
        files={name: url.options[name] for name in FILES if name in url.options},
    )


def _check_hosts(url: DatabaseURL) -> None:
    netloc = urlsplit(url.target).netloc
    login, _, hosts = netloc.rpartition("@")
    if "@" in login:
        raise ConfigError("url: write @ as %40 inside a user's name or a password")
    ports = url.options.get("port", "5432").split(",")
    if not all(HOST.fullmatch(host) for host in hosts.split(",")) or not all(port.isdecimal() for port in ports):
        # not repeated: it may be a part of a password
        raise ConfigError("url: hosts must look like name:5432, several with commas in between; write / as %2F in a password")
