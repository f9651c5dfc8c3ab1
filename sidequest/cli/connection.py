"""CLI. The way to the database: a started Sidequest without an engine, or the bare store."""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sidequest
from sidequest.backends import make_backend
from sidequest.backends.base import Backend
from sidequest.cli.failures import Failed, WrongUse
from sidequest.config import DEFAULT_URL, DatabaseURL


def url_of(args: argparse.Namespace) -> str:
    """--url, else SIDEQUEST_URL, else the file of the default. Raises WrongUse when it is no URL."""
    url: str = args.url if args.url is not None else os.environ.get("SIDEQUEST_URL") or DEFAULT_URL
    store(url)
    return url


def store(url: str) -> Backend:
    """The store at this URL, not yet opened."""
    try:
        return make_backend(url)
    except ValueError as error:
        raise WrongUse(error) from None


def make(url: str, **settings: Any) -> sidequest.Sidequest:
    """A Sidequest, not yet started. Raises WrongUse naming a setting that is wrong."""
    try:
        return sidequest.Sidequest(url, **settings)
    except (TypeError, ValueError) as error:
        raise WrongUse(error) from None


def missing(url: str) -> bool:
    """Whether the URL names a file that does not exist: opening it would create it."""
    parsed = DatabaseURL.parse(url)
    if parsed.scheme != "sqlite":
        return False
    try:
        Path(parsed.target).stat()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False  # it is in the way, or out of reach: opening it says why
    return False


def refuse_missing(url: str) -> None:
    if missing(url):
        raise Failed(f"there is no database at {DatabaseURL.parse(url).target}; create it with: sidequest migrate up")


@asynccontextmanager
async def client(args: argparse.Namespace) -> AsyncGenerator[sidequest.Sidequest, None]:
    """A started Sidequest that neither creates nor changes the database by being started."""
    url = url_of(args)
    refuse_missing(url)
    async with make(url, engine="off", migrate=False) as sq:
        yield sq


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Backend, None]:
    """The bare store, for what must work before the tables are there."""
    backend = store(url)
    try:
        await backend.open()
        yield backend
    finally:
        await backend.close()
