"""What a postgresql:// URL says, and how it is refused: by the name of the option, with what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidequest.backends.postgres.url import Access, read_url
from sidequest.config import DatabaseURL
from sidequest.errors import ConfigError


def read(url: str, role: str = "app") -> Access:
    return read_url(DatabaseURL.parse(url), role)


def test_a_plain_url_has_the_documented_defaults() -> None:
    assert read("postgresql://ann:s3cret@host/db") == Access(
        connect={
            "dsn": "postgresql://ann:s3cret@host/db",
            "timeout": 10.0,
            "command_timeout": 30.0,
            "statement_cache_size": 100,
            "server_settings": {
                "application_name": "sidequest app",
                "jit": "off",
                "default_transaction_isolation": "read committed",
                "idle_in_transaction_session_timeout": "60s",
            },
        },
        command_timeout=30.0,
        schema=None,
        pool_size=10,
        prepared_statements=True,
        files={},
    )


def test_an_engine_works_with_two_connections_whatever_the_app_has() -> None:
    assert read("postgresql://host/db?pool_size=50", "engine").pool_size == 2
    assert read("postgresql://host/db?pool_size=50").pool_size == 50


def test_our_own_options_do_not_reach_the_driver() -> None:
    own = "schema=jobs&prefix=x_&pool_size=2&connect_timeout=1.5&command_timeout=7&application_name=shop"
    access = read(f"postgresql://host/db?{own}")
    assert access.connect["dsn"] == "postgresql://host/db"
    assert access.connect["server_settings"]["application_name"] == "shop"
    assert (access.schema, access.pool_size, access.connect["timeout"], access.command_timeout) == ("jobs", 2, 1.5, 7)


def test_without_prepared_statements_nothing_is_left_in_a_session() -> None:
    access = read("postgresql://host/db?prepared_statements=off")
    assert access.connect["statement_cache_size"] == 0
    assert access.connect["server_settings"] == {"application_name": "sidequest app"}


def test_the_driver_gets_what_is_its_own() -> None:
    access = read(
        "postgresql:///db?host=/run/pg&port=5433&sslmode=verify-full&sslrootcert=/a b.pem&user=ann&options=-c work_mem=1MB"
    )
    assert access.connect["dsn"] == (
        "postgresql:///db?host=%2Frun%2Fpg&port=5433&sslmode=verify-full&sslrootcert=%2Fa+b.pem&user=ann&options=-c+work_mem%3D1MB"
    )
    assert access.files == {"sslrootcert": "/a b.pem"}


@pytest.mark.parametrize("url", ["postgresql://a,b:5433/db", "postgresql:///db?host=a,b"])
def test_of_several_servers_the_one_that_can_be_written_to_is_taken(url: str) -> None:
    assert "target_session_attrs=read-write" in read(url).connect["dsn"]
    assert (
        "target_session_attrs=primary" in read(f"{url}{'&' if '?' in url else '?'}target_session_attrs=primary").connect["dsn"]
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("sslmod=require", "'sslmod' is not an option of postgresql URLs; did you mean 'sslmode'"),
        ("statement_cache_size=0", "'statement_cache_size' is not an option of postgresql URLs"),
        ("sslmode=required", "sslmode must be one of disable, .*, verify-full, not 'required'; did you mean 'require'"),
        ("ssl_min_protocol_version=1.2", "ssl_min_protocol_version must be one of TLSv1, .*, not '1.2'"),
        ("target_session_attrs=standby", "target_session_attrs must be one of any, primary, read-write, not 'standby'"),
        ("prepared_statements=no", "prepared_statements must be one of on, off, not 'no'"),
        ("schema=My-Jobs", "schema must be up to 41 lower-case letters, digits and _ , not 'My-Jobs'"),
        ("pool_size=many", "pool_size must be a whole number between 1 and 1000, not 'many'"),
        ("pool_size=2.5", "pool_size must be a whole number between 1 and 1000, not '2.5'"),
        ("pool_size=0", "pool_size must be a whole number"),
        ("connect_timeout=0", "connect_timeout must be a number of seconds between 0.01 and 600, not '0'"),
        ("connect_timeout=nan", "connect_timeout must be a number"),
        ("command_timeout=1e9", "command_timeout must be a number of seconds between 0.01 and 3600, not '1e9'"),
        ("port=http", "hosts must look like name:5432"),
    ],
)
def test_a_wrong_option_is_refused(options: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^url: {words}"):
        read(f"postgresql://ann:s3cret@host/db?{options}")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:s3c@ret@host/db",
        "postgresql://ann:s3c/ret@host/db",
        "postgresql://ann:s3cret@host:port/db",
        "postgresql://ann:s3cret@[::1]x/db",
        "postgresql://ann:s3cret@a:1:2,b/db",
    ],
)
def test_what_is_wrong_with_hosts_is_said_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError, match="^url: ") as caught:
        read(url)
    assert "s3c" not in str(caught.value)


@pytest.mark.parametrize("hosts", ["host", "host:5433", "[::1]:5432", "[::1]", "a,b:1,[::2]:3", "10.0.0.1", "%2Frun%2Fpg", ""])
def test_hosts_come_in_many_forms(hosts: str) -> None:
    assert read(f"postgresql://{hosts}/db").connect["dsn"].startswith(f"postgresql://{hosts}/db")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "root.pem").touch()
    read(f"postgresql://host/db?sslrootcert={tmp_path}/root.pem").check_files()
    with pytest.raises(ConfigError, match="^url: sslkey: there is no file .*/key.pem"):
        read(f"postgresql://host/db?sslrootcert={tmp_path}/root.pem&sslkey={tmp_path}/key.pem").check_files()
