"""Index Python's standard library: one job per file, thousands of them, then one report.

    python examples/stdlib_index.py [--limit 200] [--output report.md] [--url sqlite:///index.db]

What to look at: `scan` is async and enqueues the other jobs; `index` is a plain function, so each
runs alone in a worker process, on all cores; `report` waits for all of them. Some files hold broken
syntax on purpose, and three vanish while they wait: the report names what failed, and why.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import os
import platform
import shutil
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from sidequest import JobContext, JobFailed, JobHandle, Retry, Sidequest, job

CPUS = os.cpu_count() or 1
STDLIB = Path(sysconfig.get_path("stdlib"))
VANISHING = ("abc.py", "ast.py", "bisect.py")
EXPECTED = ("SyntaxError", "Retry")
warnings.simplefilter("ignore", SyntaxWarning)  # what the indexed files are warned of is not our business


@dataclass(frozen=True)
class Module:
    """What there is to know about one file."""

    lines: int
    functions: int
    classes: int
    imports: list[str]


@job
async def scan(ctx: JobContext, folder: str, limit: int | None = None) -> dict[str, int]:
    """Enqueue one job for each Python file in the folder; their ids, by path."""
    paths = await asyncio.to_thread(python_files, Path(folder))
    chosen = paths[:: -(-len(paths) // limit) or 1] if limit else paths  # every n-th
    handles = await ctx.sidequest.enqueue_many(index.call(folder, path) for path in chosen)
    return {path: handle.id for path, handle in zip(chosen, handles, strict=True)}


@job(queue="index", max_attempts=3, discard_on=SyntaxError)
def index(ctx: JobContext, folder: str, path: str) -> Module:
    """Parse one file. Broken syntax stays broken: no retry. A missing file may come back."""
    try:
        source = Path(folder, path).read_bytes()
    except FileNotFoundError:
        raise Retry(f"the file is gone (attempt {ctx.attempt} of {ctx.max_attempts})", delay=0.2) from None
    functions = classes = 0
    imports: set[str] = set()
    for node in ast.walk(ast.parse(source, Path(path).name)):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                functions += 1
            case ast.ClassDef():
                classes += 1
            case ast.Import(names):
                imports.update(alias.name.partition(".")[0] for alias in names)
            case ast.ImportFrom(str(module), level=0):
                imports.add(module.partition(".")[0])
    return Module(len(source.splitlines()), functions, classes, sorted(imports))


@job(max_attempts=1)
async def report(ctx: JobContext, scans: list[int], output: str) -> str:
    """Wait for everything that the scans enqueued, then write the report; its text."""
    ids: dict[str, int] = {}
    for scanned in scans:
        ids |= await ctx.sidequest.handle(scanned).result()

    async def outcome(path: str) -> tuple[str, Module | JobFailed]:
        try:
            return path, Module(**await ctx.sidequest.handle(ids[path]).result())
        except JobFailed as failed:
            if failed.error_type not in EXPECTED:
                raise
            return path, failed

    modules: dict[str, Module] = {}
    failures: dict[str, str] = {}
    for done, ended in enumerate(asyncio.as_completed(map(outcome, ids)), 1):
        match await ended:
            case path, Module() as module:
                modules[path] = module
            case path, JobFailed() as failed:
                failures[path] = failed.error_message
        ctx.progress(done, len(ids), path)
    text = describe(modules, failures)
    await asyncio.to_thread(Path(output).write_text, text, "utf-8")
    return text


def python_files(folder: Path) -> list[str]:
    """The Python files of the folder, without what was installed on top of the standard library."""
    paths = (path.relative_to(folder) for path in folder.rglob("*.py"))
    return sorted(path.as_posix() for path in paths if not {"site-packages", "dist-packages"} & {*path.parts})


def describe(modules: Mapping[str, Module], failures: Mapping[str, str]) -> str:
    """The report, the same for the same files."""
    imported = Counter(name for module in modules.values() for name in module.imports)
    largest = sorted(modules, key=lambda path: (-modules[path].lines, path))[:10]
    favourites = sorted(imported, key=lambda name: (-imported[name], name))[:10]
    return "\n".join([
        f"# The standard library of Python {platform.python_version()}\n",
        f"- {len(modules):,} files with {sum(module.lines for module in modules.values()):,} lines",
        f"- {sum(module.functions for module in modules.values()):,} functions",
        f"- {sum(module.classes for module in modules.values()):,} classes",
        f"- {len(failures)} files that could not be indexed",
        "\n## Largest modules\n",
        *(f"- {path}: {modules[path].lines:,} lines" for path in largest),
        "\n## Most imported\n",
        *(f"- {name}: by {imported[name]:,} files" for name in favourites),
        "\n## Failed\n",
        *(f"- {path}: {failures[path]}" for path in sorted(failures)),
        "",
    ])  # fmt: skip


async def show_progress(handle: JobHandle[str]) -> None:
    """Until the job ends: one line that is rewritten on a terminal, a line each second elsewhere."""
    terminal = sys.stdout.isatty()
    while not (record := await handle.refresh()).state.final:
        if record.progress:
            line = f"{record.progress.done:.0f} of {record.progress.total:.0f} files: {record.progress.note}"
            print(f"\r\x1b[K{line[:79]}" if terminal else line, end="" if terminal else "\n", flush=True)
        await asyncio.sleep(0.1 if terminal else 1)
    print("\r\x1b[K" if terminal else "", end="", flush=True)


async def main(url: str, limit: int | None, output: Path, vanishing: Path) -> None:
    for name in VANISHING:
        shutil.copy(STDLIB / name, vanishing / f"vanished_{name}")
    async with Sidequest(url, queues={"index": {"paused": True, "concurrency": CPUS}}, log_level="ERROR") as sq:
        scans = [await scan.enqueue(str(STDLIB), limit), await scan.enqueue(str(vanishing))]
        found = [len(await scanned.result(timeout=60)) for scanned in scans]
        print(f"{sum(found):,} files, {CPUS} CPUs")
        shutil.rmtree(vanishing)  # their jobs are waiting already
        await sq.queues.resume("index")
        handle = await report.enqueue([scanned.id for scanned in scans], str(output))
        await show_progress(handle)
        print(await handle.result())
    print(f"written to {output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Index Python's standard library with background jobs.")
    parser.add_argument("--limit", type=int, help="index about this many files (default: all)")
    parser.add_argument("--output", type=Path, default=Path("stdlib-index.md"), help="the report (default: %(default)s)")
    parser.add_argument("--url", help="the database (default: SQLite in a temporary directory)")
    given = parser.parse_args()
    with TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        database = given.url or f"sqlite:///{temporary}/index.db"
        (vanishing := Path(temporary, "vanishing")).mkdir()
        asyncio.run(main(database, given.limit, given.output.absolute(), vanishing))
