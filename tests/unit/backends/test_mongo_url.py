"""What a mongodb:// URL says, and how it is refused: by the name of the option, with what would be right."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from pymongo import WriteConcern

from sidequest.backends.mongo import url as urls
from sidequest.backends.mongo.url import Access, read_url
from sidequest.config import DatabaseURL
from sidequest.errors import ConfigError


def read(url: str, role: str = "app") -> Access:
    return read_url(DatabaseURL.parse(url), role)


def test_a_plain_url_has_the_documented_defaults() -> None:
    assert read("mongodb://ann:s3cret@host/db") == Access(
        uri="mongodb://ann:s3cret@host/db",
        client={
            "maxPoolSize": 10, "serverSelectionTimeoutMS": 10_000, "connectTimeoutMS": 10_000, "socketTimeoutMS": 30_000,
            "appname": "sidequest app",
        },
        database="db",
        driver="motor",
        write_concern=WriteConcern("majority", j=True),
        connect_timeout=10.0,
        command_timeout=30.0,
        files={},
    )  # fmt: skip


def test_an_engine_needs_four_connections_whatever_the_app_has() -> None:
    assert read("mongodb://host/db?pool_size=50", "engine").client["maxPoolSize"] == 4
    assert read("mongodb://host/db?pool_size=50").client["maxPoolSize"] == 50


def test_times_are_seconds() -> None:
    access = read("mongodb://host/db?connect_timeout=1.5&command_timeout=7")
    assert (access.connect_timeout, access.command_timeout) == (1.5, 7)
    assert [access.client[name] for name in ("serverSelectionTimeoutMS", "socketTimeoutMS")] == [1_500, 7_000]


def test_a_hosted_clusters_own_url_is_taken_as_it_is() -> None:
    access = read("mongodb+srv://ann:s3cret@cluster0.example.net/app?retryWrites=true&w=majority&appName=Cluster0")
    assert access.uri == (
        "mongodb+srv://ann:s3cret@cluster0.example.net/app?retryWrites=true&w=majority&appName=Cluster0"
    )  # fmt: skip
    assert (access.database, access.client["appname"]) == ("app", "Cluster0")


@pytest.mark.parametrize(
    "hosts", ["a,b:27018,c", "[::1]:27017", "%2Frun%2Fmongodb%2Fmongodb-27017.sock", "127.0.0.1", "[fe80::1%25eth0]"]
)
def test_hosts_may_be_several_and_of_every_kind(hosts: str) -> None:
    assert read(f"mongodb://{hosts}/db").uri == f"mongodb://{hosts}/db"


def test_the_case_of_mongodbs_own_options_does_not_matter() -> None:
    assert read("mongodb://host/db?REPLICASET=rs0&tlscafile=ca.pem&TLS=true") == read(
        "mongodb://host/db?replicaSet=rs0&tlsCAFile=ca.pem&tls=true"
    )


def test_values_reach_the_driver_as_they_were_meant() -> None:
    properties = "SERVICE_NAME:mongo%20db,CANONICALIZE_HOST_NAME:true"
    access = read(f"mongodb://host/db?authMechanismProperties={properties}&appName=a%20b%26c&replicaSet=r%2Bs")
    assert access.uri == f"mongodb://host/db?authMechanismProperties={properties}&appName=a%20b%26c&replicaSet=r%2Bs"


@pytest.mark.parametrize(
    ("options", "concern"),
    [
        ("w=2", WriteConcern(2, j=True)),
        ("w=twoDataCenters", WriteConcern("twoDataCenters", j=True)),
        ("w=1&journal=false", WriteConcern(1, j=False)),
    ],
)
def test_when_a_write_counts_as_done_can_be_said(options: str, concern: WriteConcern) -> None:
    assert read(f"mongodb://host/db?{options}").write_concern == concern


def test_the_driver_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read("mongodb://host/db?driver=pymongo").driver == "pymongo"
    assert read("mongodb://host/db?driver=motor").driver == "motor"
    real = importlib.util.find_spec
    monkeypatch.setattr(urls, "find_spec", lambda name: None if name == "motor" else real(name))
    assert read("mongodb://host/db").driver == "pymongo"
    with pytest.raises(ConfigError, match="driver=motor needs the package motor, which is not installed"):
        read("mongodb://host/db?driver=motor")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mongodb://host/db?replicaSt=rs", "'replicaSt' is not an option of mongodb URLs; did you mean 'replicaSet'"),
        ("mongodb://host/db?zzz=1", "'zzz' is not an option of mongodb URLs; there are command_timeout, connect_timeout"),
        ("mongodb://host/db?readPreference=secondary", "'readPreference' is not an option of mongodb URLs"),
        ("mongodb://host/db?replicaSet=a&replicaset=b", "the option 'replicaSet' is given twice"),
        ("mongodb://host/db?pool_size=0", "pool_size must be a whole number between 1 and 1000, not '0'"),
        (
            "mongodb://host/db?connect_timeout=soon",
            "connect_timeout must be a number of seconds between 0.01 and 600, not 'soon'",
        ),
        ("mongodb://host/db?command_timeout=nan", "command_timeout must be a number of seconds between 0.01 and 3600"),
        ("mongodb://host/db?driver=mongo", "driver must be one of motor, pymongo, not 'mongo'; did you mean 'pymongo'"),
        ("mongodb://host/db?tls=perhaps", "tls: .*must be 'true' or 'false'"),
        ("mongodb://host/db?heartbeatFrequencyMS=often", "heartbeatFrequencyMS: "),
        ("mongodb://host/db?authMechanism=magic", "authMechanism: "),
        ("mongodb://host/db?w=0", "w must be 'majority', a tag or a number from 1 to 50, not '0'"),
        ("mongodb://host/db?w=-1", "w: The value of w must be a non negative integer"),
        ("mongodb://ann:s3cret@host", "name the database that holds the jobs: mongodb://ann@host/app"),
        ("mongodb://ann:s3cret@host/", "name the database that holds the jobs: mongodb://ann@host/app"),
        ("mongodb://host/a.b", "the database's name must have up to 63 letters"),
        ("mongodb://host/a%20b", "the database's name must have"),
        ("mongodb://host/" + "x" * 64, "the database's name must have"),
        ("mongodb://ann:s3@cret@host/db", "write @ as %40 and : as %3A inside a user's name or a password"),
        ("mongodb://ann:s3:cret@host/db", "write @ as %40 and : as %3A inside a user's name or a password"),
        ("mongodb://ann:s3/cret@host/db", "hosts must look like name:27017"),
        ("mongodb://host:port/db", "hosts must look like name:27017"),
        ("mongodb:///db", "hosts must look like name:27017"),
        ("mongodb+srv://a,b/db", "takes one host, without a port"),
        ("mongodb+srv://a:27017/db", "takes one host, without a port"),
    ],
)
def test_what_is_wrong_is_named_with_what_would_be_right(url: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        read(url)
    assert "cret" not in str(refused.value)


def test_a_missing_certificate_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    access = read(f"mongodb://host/db?tlsCAFile={tmp_path}/ca.pem&tlsCertificateKeyFile={tmp_path}/no.pem")
    with pytest.raises(ConfigError, match="url: tlsCertificateKeyFile: there is no file .*/no.pem"):
        access.check_files()
