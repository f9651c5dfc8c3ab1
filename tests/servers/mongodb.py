"""MongoDB: a replica set of one member, and a standalone server, which has no transactions."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, ClassVar

from tests.servers.server import Command, Server, program

REPLICA_SET = "rs0"


class MongoDBStandalone(Server):
    name: ClassVar[str] = "mongodb-standalone"
    variable: ClassVar[str] = "SIDEQUEST_TEST_MONGODB_STANDALONE_URL"
    driver: ClassVar[str] = "pymongo"

    def find(self) -> None:
        wheel = [Path(entry, "fiftyone/db/bin") for entry in sys.path]
        server = program("mongod", *wheel)
        if server is None:
            raise self.missing("there is no MongoDB on this machine")
        if not os.access(server, os.X_OK):
            server.chmod(0o755)  # pip does not set the run bit of what lies among modules
        self._server = server

    def private_url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/"

    def setup(self) -> Command:
        return ()

    def command(self) -> Command:
        return [
            self._server,
            f"--dbpath={self.folder}",
            f"--port={self.port}",
            "--bind_ip=127.0.0.1",
            "--nounixsocket",
            f"--wiredTigerCacheSizeGB={1 if self.durable else 0.25}",
            "--setParameter=diagnosticDataCollectionEnabled=false",
        ]

    def ping(self) -> None:
        self._command({"ping": 1})

    def create(self, database: str) -> None:
        """It is there as soon as something is written to it."""

    def drop(self, database: str) -> None:
        self._command({"dropDatabase": 1}, database)

    def _command(self, command: dict[str, Any], database: str = "admin") -> dict[str, Any]:
        """Straight to the one server that it is, whatever it knows about replica sets."""
        from pymongo import MongoClient

        url = f"mongodb://127.0.0.1:{self.port}/?directConnection=true" if self.private else self.url
        client: MongoClient[dict[str, Any]] = MongoClient(url, serverSelectionTimeoutMS=5_000, socketTimeoutMS=30_000)
        with client:
            return client[database].command(command)


class MongoDB(MongoDBStandalone):
    name: ClassVar[str] = "mongodb"
    variable: ClassVar[str] = "SIDEQUEST_TEST_MONGODB_URL"

    def private_url(self) -> str:
        return f"mongodb://127.0.0.1:{self.port}/?replicaSet={REPLICA_SET}"

    def command(self) -> Command:
        return [*super().command(), f"--replSet={REPLICA_SET}", f"--oplogSize={1024 if self.durable else 64}"]

    def ping(self) -> None:
        hello = self._command({"hello": 1})
        if "setName" not in hello and self.private:
            member = {"_id": 0, "host": f"127.0.0.1:{self.port}"}
            elections = {"electionTimeoutMillis": 1_000}  # after a kill there is nobody to wait for
            self._command({"replSetInitiate": {"_id": REPLICA_SET, "members": [member], "settings": elections}})
        if not hello["isWritablePrimary"]:
            raise ConnectionError("it has no primary yet")
