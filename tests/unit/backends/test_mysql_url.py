"""What a mysql:// URL says, and how it is refused: by the name of the option, with what would be right."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from sidequest.backends.mysql.url import Access, read_url
from sidequest.config import DatabaseURL
from sidequest.errors import ConfigError


def read(url: str, role: str = "app") -> Access:
    return read_url(DatabaseURL.parse(url), role)


@pytest.mark.parametrize("scheme", ["mysql", "mariadb", "mysql+aiomysql"])
def test_a_plain_url_has_the_documented_defaults(scheme: str) -> None:
    assert read(f"{scheme}://ann:s3cret@host/db") == Access(
        connect={
            "host": "host", "port": 3306, "unix_socket": None, "user": "ann", "password": "s3cret", "db": "db",
            "program_name": "sidequest app",
        },
        tls={},
        connect_timeout=10.0,
        command_timeout=30.0,
        pool_size=10,
    )  # fmt: skip


def test_user_password_and_database_are_percent_decoded() -> None:
    found = read("mysql://a%40b:p%2F%3A%25w@[::1]:3307/my%20db").connect
    assert [found[name] for name in ("host", "port", "user", "password", "db")] == ["::1", 3307, "a@b", "p/:%w", "my db"]


def test_the_driver_sends_a_password_as_the_server_knows_it() -> None:
    assert read("mysql://ann:p%C3%A4%F0%9F%A6%84@host/db").connect["password"].encode("latin1") == "pä🦄".encode()


def test_nothing_but_the_database_has_to_be_said() -> None:
    access = read("mysql:///db?unix_socket=/run/mysqld/mysqld.sock")
    assert (access.connect["host"], access.connect["user"]) == ("localhost", None)
    assert access.connect["unix_socket"] == "/run/mysqld/mysqld.sock"


def test_an_engine_needs_three_connections_whatever_the_app_has() -> None:
    assert read("mysql://host/db?pool_size=50", "engine").pool_size == 3
    assert read("mysql://host/db?pool_size=50").pool_size == 50


def test_times_are_seconds() -> None:
    access = read("mysql://host/db?connect_timeout=1.5&command_timeout=7")
    assert (access.connect_timeout, access.command_timeout) == (1.5, 7)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://host/db?ssl_mod=required", "'ssl_mod' is not an option of mysql URLs; did you mean 'ssl_mode'"),
        ("mysql://host/db?zzz=1", "'zzz' is not an option of mysql URLs; there are command_timeout, connect_timeout"),
        ("mysql://host/db?pool_size=0", "pool_size must be a whole number between 1 and 1000, not '0'"),
        ("mysql://host/db?pool_size=2.5", "pool_size must be a whole number between 1 and 1000, not '2.5'"),
        (
            "mysql://host/db?connect_timeout=soon",
            "connect_timeout must be a number of seconds between 0.01 and 600, not 'soon'",
        ),
        ("mysql://host/db?command_timeout=nan", "command_timeout must be a number of seconds between 0.01 and 3600"),
        ("mysql://host/db?ssl_mode=require", "ssl_mode must be one of disabled, required, .*; did you mean 'required'"),
        ("mysql://host/db?ssl_mode=disabled&ssl_ca=x", "ssl_mode=disabled leaves ssl_ca without use"),
        (
            "mysql://host/db?ssl_mode=required&ssl_ca=x",
            "ssl_mode=required checks nobody's certificate; for ssl_ca say verify_ca",
        ),
        ("mysql://host/db?ssl_key=x", "ssl_key needs the ssl_cert that it belongs to"),
        ("mysql://ann:s3cret@host", "name one database, as in mysql://user:password@host/database; this is mysql://ann@host"),
        ("mysql://ann:s3cret@host/", "name one database"),
        ("mysql://ann:s3cret@host/a/b", "name one database"),
        ("mysql://ann:s3@cret@host/db", "write @ as %40 inside a user's name or a password"),
        ("mysql://ann:s3cret/x@host/db", "the port must be a number up to 65535; write / as %2F in a password"),
        ("mysql://ann:s3cret@host:99999/db", "the port must be a number up to 65535"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        read(url)
    assert "s3cret" not in str(caught.value)
    assert "s3@cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "checked", "by_name"),
    [
        ("ssl_mode=required", ssl.CERT_NONE, False),
        ("ssl_mode=verify_ca", ssl.CERT_REQUIRED, False),
        ("ssl_mode=verify_identity", ssl.CERT_REQUIRED, True),
    ],
)
def test_each_mode_checks_what_it_says(options: str, checked: ssl.VerifyMode, by_name: bool) -> None:
    context = read(f"mysql://host/db?{options}").tls_context()
    assert context is not None
    assert (context.verify_mode, context.check_hostname) == (checked, by_name)


def test_without_tls_options_there_is_none() -> None:
    assert read("mysql://host/db").tls_context() is None
    assert read("mysql://host/db?ssl_mode=disabled").tls_context() is None


def test_a_certificate_authority_alone_is_reason_enough_to_check() -> None:
    assert read("mysql://host/db?ssl_ca=ca.pem").tls == {"ssl_ca": "ca.pem", "ssl_mode": "verify_ca"}


def test_files_are_read_when_the_store_is_opened(tmp_path: Path) -> None:
    missing = read(f"mysql://host/db?ssl_ca={tmp_path}/none.pem")
    with pytest.raises(ConfigError, match=r"ssl_ca=.*/none.pem cannot be used"):
        missing.tls_context()
    (tmp_path / "cert.pem").write_text("no certificate")
    wrong = read(f"mysql://host/db?ssl_cert={tmp_path}/cert.pem&ssl_mode=required")
    with pytest.raises(ConfigError, match=r"ssl_cert=.*/cert.pem cannot be used"):
        wrong.tls_context()
