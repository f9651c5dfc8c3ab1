"""THE STORE, on MySQL and MariaDB: what a `mysql://` URL says, checked before anything is opened."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from sidequest.backends.options import LIMITS, limits, one_of
from sidequest.config import DatabaseURL
from sidequest.errors import ConfigError

TLS = ("ssl_ca", "ssl_cert", "ssl_key", "ssl_mode")
OPTIONS = (*LIMITS, "prefix", "unix_socket", *TLS)
SSL_MODES = ("disabled", "required", "verify_ca", "verify_identity")
"""As the servers' own clients call them."""
VERIFIED = ("verify_ca", "verify_identity")
ENGINE_POOL = 3
"""The connection for its beats is one more."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the server."""

    connect: Mapping[str, Any]
    """The keyword arguments of an aiomysql connection: where, who, which database, and what for."""
    tls: Mapping[str, str]
    """The options of TLS; empty for none."""
    connect_timeout: float
    command_timeout: float
    pool_size: int

    def tls_context(self) -> ssl.SSLContext | None:
        """Reads the certificates. Raises ConfigError when there are none, or none that are usable."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls.get("ssl_ca"))
            if "ssl_cert" in self.tls:
                context.load_cert_chain(self.tls["ssl_cert"], self.tls.get("ssl_key"))
        except OSError as error:  # an SSLError is one too
            files = ", ".join(f"{name}={value}" for name, value in self.tls.items() if name != "ssl_mode")
            raise ConfigError(f"url: {files} cannot be used: {error}") from error
        # From Python 3.13 on it is strict about the form of certificates, and refuses those that MySQL makes for itself.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.check_hostname = self.tls["ssl_mode"] == "verify_identity"
        context.verify_mode = ssl.CERT_REQUIRED if self.tls["ssl_mode"] in VERIFIED else ssl.CERT_NONE
        return context


def read_url(url: DatabaseURL, role: str) -> Access:
    """Raises ConfigError naming the option, and what would be right."""
    url.refuse_unknown_options(OPTIONS)
    most = limits(url.options, role, ENGINE_POOL)
    return Access(
        connect={**_where(url), "program_name": f"sidequest {role}"},
        tls=_tls(url.options),
        connect_timeout=most.connect_timeout,
        command_timeout=most.command_timeout,
        pool_size=most.pool_size,
    )


def _where(url: DatabaseURL) -> Mapping[str, Any]:
    parts = urlsplit(url.target)
    if "@" in parts.netloc.rpartition("@")[0]:
        raise ConfigError("url: write @ as %40 inside a user's name or a password")
    try:
        port = parts.port or 3306
    except ValueError:  # not repeated: it may be a part of a password
        raise ConfigError("url: the port must be a number up to 65535; write / as %2F in a password") from None
    database = unquote(parts.path.strip("/"))
    if not database or "/" in database:
        raise ConfigError(f"url: name one database, as in mysql://user:password@host/database; this is {url.shown}")
    return {
        "host": unquote(parts.hostname or "localhost"),
        "port": port,
        "unix_socket": url.options.get("unix_socket"),
        "user": unquote(parts.username) if parts.username else None,  # None: the name of this process's user
        # The driver encodes a password as latin1; the servers know it as UTF-8.
        "password": unquote(parts.password or "").encode().decode("latin1"),
        "db": database,
    }


def _tls(options: Mapping[str, str]) -> Mapping[str, str]:
    given = {name: options[name] for name in TLS if name in options}
    implied = "verify_ca" if "ssl_ca" in given else "required" if given else "disabled"
    mode = one_of(given, "ssl_mode", SSL_MODES, default=implied)
    if mode == "disabled" and len(given) > 1:
        raise ConfigError(f"url: ssl_mode=disabled leaves {', '.join(sorted(set(given) - {'ssl_mode'}))} without use")
    if mode == "required" and "ssl_ca" in given:
        raise ConfigError("url: ssl_mode=required checks nobody's certificate; for ssl_ca say verify_ca or verify_identity")
    if "ssl_key" in given and "ssl_cert" not in given:
        raise ConfigError("url: ssl_key needs the ssl_cert that it belongs to")
    return {} if mode == "disabled" else {**given, "ssl_mode": mode}
