"""HARNESS. An environment of its own for each system, kept from run to run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.peers.contestants import System

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".nox" / "peers"
READY = "bench-ready"
"""The file that says with which requirements an environment was completed."""
INSTALLING = 600.0
"""Seconds that an installation may take."""
FOREIGN = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
"""Variables of ours that an installation must not see."""


class Missing(Exception):
    """The system cannot take part on this machine; the message says why."""


class Environment:
    """Where a system's programs are."""

    def __init__(self, python: Path) -> None:
        self.python = python

    def program(self, name: str) -> str:
        """Beside its Python, else by name."""
        found = self.python.parent / name
        return str(found) if found.exists() else name

    def versions(self) -> dict[str, str]:
        """Of everything that is installed there, and of Python."""
        ask = (
            "import json, sys, importlib.metadata as m;"
            "found = {d.metadata['Name'].lower(): d.version for d in m.distributions()};"
            "print(json.dumps({'python': sys.version.split()[0]} | found))"
        )
        answer: dict[str, str] = json.loads(subprocess.run([self.python, "-c", ask], check=True, capture_output=True).stdout)
        return answer


def environment(system: System) -> Environment:
    """The system's, made now if it is not there yet. Raises Missing."""
    if not system.requires:
        return Environment(Path(sys.executable))
    base = _python(system.python)
    if base is None:
        raise Missing(f"{system.name} needs Python {'.'.join(map(str, system.python))} or newer, and there is none here")
    wish = hashlib.sha256(json.dumps([*system.requires, str(base)]).encode()).hexdigest()
    folder = CACHE / system.name
    found = Environment(folder / "bin" / "python")
    ready = folder / READY
    if ready.exists() and ready.read_text() == wish:
        return found
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing {system.name} …", flush=True)
    try:
        _make(folder, base, system.requires)
    except (OSError, subprocess.SubprocessError) as error:
        output = getattr(error, "stderr", None) or b""
        last = output.decode(errors="replace").strip().splitlines()[-1:]
        raise Missing(f"{system.name} cannot be installed: {' '.join(last) or error}") from error
    ready.write_text(wish)
    return found


def _make(folder: Path, base: Path, wanted: Sequence[str]) -> None:
    uv = shutil.which("uv")
    if uv:
        _run(uv, "venv", "--quiet", "--python", str(base), str(folder))
        _run(uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(folder / "bin" / "python"), *wanted)
        return
    _run(str(base), "-m", "venv", str(folder))
    _run(str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted)


def _run(*command: str) -> None:
    plain = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    subprocess.run(command, check=True, capture_output=True, timeout=INSTALLING, env=plain)


def _python(oldest: tuple[int, int]) -> Path | None:
    """Ours if it is new enough, else the oldest of the others on this machine that is."""
    own = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    if sys.version_info[:2] >= oldest:
        return own if own.exists() else Path(sys.executable)
    return next(_others(oldest), None)


def _others(oldest: tuple[int, int]) -> Iterator[Path]:
    for minor in range(oldest[1], oldest[1] + 5):
        name = f"python3.{minor}"
        places = [Path(found) for found in [shutil.which(name)] if found]
        places += sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/{name}"))
        places += sorted(Path.home().glob(f".local/share/uv/python/*3.{minor}*/bin/{name}"))
        for place in places:
            if subprocess.run([place, "-c", ""], capture_output=True, check=False).returncode == 0:
                yield place
