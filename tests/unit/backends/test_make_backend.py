"""From a URL to its backend: aliases, what is missing, and what is refused."""

from __future__ import annotations

import sys

import pytest

from sidequest.backends import BACKENDS, make_backend
from sidequest.config import DatabaseURL
from sidequest.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "dialect"),
    [
        ("sqlite:///a.db", "sqlite"),
        ("postgresql://ann@host/db", "postgres"),
        ("postgres://ann@host/db", "postgres"),
        ("postgresql+asyncpg://ann@host/db", "postgres"),
        ("mysql://ann@host/db", "mysql"),
        ("mariadb://ann@host/db", "mysql"),
        ("mysql+aiomysql://ann@host/db", "mysql"),
        ("mongodb://ann@host/db", "mongo"),
        ("mongodb+srv://ann@host/db", "mongo"),
    ],
)
def test_each_url_has_its_backend(url: str, dialect: str) -> None:
    assert make_backend(url).dialect == dialect


@pytest.mark.parametrize(("scheme", "driver", "extra"), [("postgresql", "asyncpg", "postgres"), ("mysql", "aiomysql", "mysql")])
def test_a_missing_driver_is_named_with_the_command_to_run(
    monkeypatch: pytest.MonkeyPatch, scheme: str, driver: str, extra: str
) -> None:
    for module in [name for name in sys.modules if name.startswith(("sidequest.backends", driver))]:
        if module == BACKENDS[scheme].module or module.endswith("_session") or module.split(".")[0] == driver:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(ConfigError, match=rf"needs the package {driver}, .* pip install 'sidequest\[{extra}\]'"):
        make_backend(f"{scheme}://ann:s3cret@host/db")


def test_an_unknown_scheme_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"postgrsql:// is not supported; .*did you mean 'postgresql'"):
        make_backend("postgrsql://ann@host/db")


@pytest.mark.parametrize("url", ["sqlite:///a.db", "postgresql://h/db", "mysql://h/db", "mongodb://h/db"])
def test_a_pool_of_another_kind_is_refused(url: str) -> None:
    with pytest.raises(TypeError, match="pool must be .*not <object"):
        make_backend(url, pool=object())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///a.db?synchronous=full", "sqlite:///a.db"),
        ("sqlite:///a.db?prefix=x_", "sqlite:///a.db?prefix=x_"),
        ("postgresql://ann:s3cret@host:5433/db?sslmode=require", "postgresql://ann@host:5433/db"),
        ("postgres://:s3cret@host/db?schema=jobs&prefix=x_", "postgresql://@host/db?schema=jobs&prefix=x_"),
        ("mysql://ann:s3%40cret@host/db", "mysql://ann@host/db"),
        ("mongodb://ann:s3cret@a:1,b:2/db?replicaSet=rs", "mongodb://ann@a:1,b:2/db"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert DatabaseURL.parse(url).shown == shown


def test_an_option_given_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="the option 'prefix' is given twice"):
        DatabaseURL.parse("sqlite:///a.db?prefix=a&prefix=b")
