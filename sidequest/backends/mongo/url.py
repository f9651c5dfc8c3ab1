"""THE STORE, on MongoDB: what a `mongodb://` URL says, checked before anything is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from pymongo import WriteConcern
from pymongo.errors import PyMongoError
from pymongo.uri_parser import split_options

from sidequest.backends.options import LIMITS, limits, one_of
from sidequest.config import DatabaseURL
from sidequest.errors import ConfigError

OWN = (*LIMITS, "driver", "prefix")
FILES = ("tlsCAFile", "tlsCRLFile", "tlsCertificateKeyFile")
PASSED_ON = (
    "appName", "authMechanism", "authMechanismProperties", "authSource", "compressors", "directConnection",
    "heartbeatFrequencyMS", "journal", "loadBalanced", "maxIdleTimeMS", "replicaSet", "retryReads", "retryWrites",
    "serverMonitoringMode", "srvMaxHosts", "srvServiceName", "ssl", "tls", "tlsAllowInvalidCertificates",
    "tlsAllowInvalidHostnames", "tlsCertificateKeyFilePassword", "tlsDisableOCSPEndpointCheck", "tlsInsecure", "w",
    "zlibCompressionLevel", *FILES,
)  # fmt: skip
"""They mean what they mean to `mongosh`, and PyMongo reads them. Their case does not matter."""
HOST = re.compile(r"(\[[^\[\]/@]+\]|[^\[\]:/@]+)(:\d{1,5})?")
DATABASE = re.compile(r"[^/\\. \"$\0]{1,63}")

ENGINE_POOL = 4
"""One of them is busy with listening, and one is kept for its beats."""
DRIVERS = ("motor", "pymongo")
"""The first one that is installed is used: Motor is as fast alone, and faster with many calls at once."""


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach the server, and in which database the collections are."""

    uri: str
    """What the driver reads, with the password."""
    client: Mapping[str, Any]
    """The keyword arguments of its client."""
    database: str
    driver: str
    write_concern: WriteConcern
    """When a write counts as done."""
    connect_timeout: float
    command_timeout: float
    files: Mapping[str, str]
    """Certificates and keys, by their option."""

    def check_files(self) -> None:
        """Raise ConfigError for a file that is not there: PyMongo would say so in its own words."""
        for option, path in self.files.items():
            if not Path(path).is_file():
                raise ConfigError(f"url: {option}: there is no file {path}")


def read_url(url: DatabaseURL, role: str) -> Access:
    """Raises ConfigError naming the option, and what would be right."""
    options = _in_our_spelling(url)
    _check_hosts(url)
    passed_on = {name: value for name, value in options.items() if name in PASSED_ON}
    for name, value in passed_on.items():
        _check(name, value)
    most = limits(options, role, ENGINE_POOL)
    client = {
        "maxPoolSize": most.pool_size,
        "serverSelectionTimeoutMS": round(most.connect_timeout * 1000),
        "connectTimeoutMS": round(most.connect_timeout * 1000),
        "socketTimeoutMS": round(most.command_timeout * 1000),
        "appname": options.get("appName", f"sidequest {role}"),
    }
    return Access(
        f"{url.target}?{_query(passed_on)}" if passed_on else url.target, client, _database(url), _driver(options),
        _write_concern(options), most.connect_timeout, most.command_timeout,
        {name: options[name] for name in FILES if name in options},
    )  # fmt: skip


def _in_our_spelling(url: DatabaseURL) -> Mapping[str, str]:
    spelling = {name.lower(): name for name in PASSED_ON}
    options: dict[str, str] = {}
    for given, value in url.options.items():
        name = spelling.get(given.lower(), given)
        if name in options:
            raise ConfigError(f"url: the option {name!r} is given twice")
        options[name] = value
    DatabaseURL(url.scheme, url.target, url.prefix, options).refuse_unknown_options((*OWN, *PASSED_ON))
    return options


def _check_hosts(url: DatabaseURL) -> None:
    login, _, hosts = urlsplit(url.target).netloc.rpartition("@")
    if "@" in login or login.count(":") > 1:
        raise ConfigError("url: write @ as %40 and : as %3A inside a user's name or a password")
    if not all(HOST.fullmatch(host) for host in hosts.split(",")):
        # not repeated: it may be a part of a password
        raise ConfigError("url: hosts must look like name:27017, several with commas in between; write / as %2F in a password")
    if url.scheme == "mongodb+srv" and ("," in hosts or ":" in hosts):
        raise ConfigError("url: mongodb+srv:// takes one host, without a port: the others are found by way of DNS")


def _query(options: Mapping[str, str]) -> str:
    """What stands after the question mark. The colons and commas of `authMechanismProperties` are read before the rest."""
    return urlencode(options, quote_via=quote, safe=":,")


def _check(name: str, value: str) -> None:
    if name in FILES:
        return  # looked for when it is needed
    try:
        split_options(_query({name: value}), validate=True, warn=False)
    except (PyMongoError, ValueError, TypeError) as error:
        raise ConfigError(f"url: {name}: {error}") from error


def _database(url: DatabaseURL) -> str:
    name = unquote(urlsplit(url.target).path.removeprefix("/"))
    if not name:
        raise ConfigError(f"url: name the database that holds the jobs: {url.shown.rstrip('/')}/app")
    if not DATABASE.fullmatch(name):
        raise ConfigError(f"url: the database's name must have up to 63 letters, and none of / \\ . \" $ or blank: {name!r}")
    return name


def _driver(options: Mapping[str, str]) -> str:
    installed = next(name for name in DRIVERS if find_spec(name) is not None)
    wanted = one_of(options, "driver", DRIVERS, default=installed)
    if find_spec(wanted) is None:
        raise ConfigError(f"url: driver={wanted} needs the package {wanted}, which is not installed")
    return wanted


def _write_concern(options: Mapping[str, str]) -> WriteConcern:
    wanted = options.get("w", "majority")
    number = int(wanted) if wanted.lstrip("-").isdecimal() else None
    if number is not None and not 1 <= number <= 50:
        raise ConfigError(f"url: w must be 'majority', a tag or a number from 1 to 50, not {wanted!r}")
    return WriteConcern(wanted if number is None else number, j=options.get("journal", "true") == "true")
