"""MariaDB and MySQL: one protocol, two programs.

Debian's releases have no MySQL, and their MariaDB comes with a `mysqld` too. So MySQL may also come
from the directory tree of a newer Debian, which `.ci/mysql` makes, and run with that one's libraries.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from tests.servers.server import Command, Server, program

ROOT = "SIDEQUEST_TEST_MYSQL_ROOT"
"""The environment variable with the path of that tree."""


class MariaDB(Server):
    name: ClassVar[str] = "mariadb"
    variable: ClassVar[str] = "SIDEQUEST_TEST_MARIADB_URL"
    driver: ClassVar[str] = "pymysql"
    users: ClassVar[Sequence[str]] = ("mysql", "nobody")

    def find(self) -> None:
        server, installer = program("mariadbd", Path("/usr/sbin")), program("mariadb-install-db")
        if server is None or installer is None:
            raise self.missing("there is no MariaDB on this machine")
        self._server, self._installer = server, installer

    def private_url(self) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/"

    def setup(self) -> Command:
        return [self._installer, *self.options(), "--auth-root-authentication-method=normal", "--skip-test-db"]

    def command(self) -> Command:
        return [self._server, *self.options()]

    def options(self) -> Sequence[str]:
        return [
            "--no-defaults",
            f"--datadir={self.folder}/data",
            f"--socket={self.folder}/socket",
            f"--pid-file={self.folder}/pid",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--max-connections=300",
            *self.balance(),
        ]

    def balance(self) -> Sequence[str]:
        """What it weighs against speed: durability, memory, space."""
        if self.durable:
            return ["--innodb-buffer-pool-size=1G", "--innodb-log-file-size=1G"]
        return [
            "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=2",  # what was committed outlives a `kill`, though not a power cut
            "--innodb-doublewrite=0",
            "--skip-log-bin",
        ]

    def ping(self) -> None:
        self._execute("SELECT 1")

    def create(self, database: str) -> None:
        self._execute(f"CREATE DATABASE {database}")

    def drop(self, database: str) -> None:
        self._execute(f"DROP DATABASE IF EXISTS {database}")

    def _execute(self, statement: str) -> None:
        import pymysql

        at = urlsplit(self.url)
        connection = pymysql.connect(
            host=at.hostname, port=at.port or 3306, user=unquote(at.username or ""), password=unquote(at.password or ""),
            connect_timeout=5, read_timeout=30,
        )  # fmt: skip
        with connection, connection.cursor() as cursor:
            cursor.execute("SET lock_wait_timeout = 10")  # a transaction left open would hold up a DROP for a year
            cursor.execute(statement)


class MySQL(MariaDB):
    name: ClassVar[str] = "mysql"
    variable: ClassVar[str] = "SIDEQUEST_TEST_MYSQL_URL"

    def find(self) -> None:
        server = program("mysqld", Path("/usr/sbin"))
        if server is not None and b"MariaDB" not in subprocess.check_output([server, "--version"]):
            self._mysqld: Command = [server]
            self._places: Sequence[str] = []
            return
        tree = Path(os.environ.get(ROOT) or Path(tempfile.gettempdir(), "sidequest-mysql")).absolute()
        if not Path(tree, "usr/sbin/mysqld").is_file():
            raise self.missing(f"there is no MySQL on this machine or in {tree}, where .ci/mysql puts one")
        [loader] = tree.glob("lib*/ld-linux-*")
        [libraries] = tree.glob("usr/lib/*-linux-gnu")
        self._mysqld = [loader, "--library-path", libraries, tree / "usr/sbin/mysqld"]
        self._places = [f"--basedir={tree}/usr", f"--plugin-dir={tree}/usr/lib/mysql/plugin"]

    def setup(self) -> Command:
        return [*self.command(), "--initialize-insecure"]

    def command(self) -> Command:
        return [*self._mysqld, *self.options()]

    def options(self) -> Sequence[str]:
        return [*super().options(), *self._places, "--mysqlx=OFF", "--secure-file-priv=NULL"]

    def balance(self) -> Sequence[str]:
        if self.durable:
            return ["--innodb-buffer-pool-size=1G", "--innodb-redo-log-capacity=1G"]
        return [*super().balance(), "--innodb-redo-log-capacity=32M"]
