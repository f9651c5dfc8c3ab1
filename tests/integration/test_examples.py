"""The examples, the README and the guides do what they say, each in a process of its own.

All tests here are async, also those that await nothing: what cleans up after each of them is.
"""

from __future__ import annotations

import ast
import asyncio
import os
import re
import signal
import socket
import sys
import sysconfig
import textwrap
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from sidequest import Sidequest
from tests.integration.waiting import eventually, marked_processes

pytestmark = pytest.mark.database("sqlite")
ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
STDLIB = Path(sysconfig.get_path("stdlib"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAM = re.compile(r"^```python\n(# (\w+\.py)\n.*?)^```$", re.DOTALL | re.MULTILINE)
"""A fenced block that names its file in its first line."""


@dataclass
class Program:
    """A program that runs in a session of its own; what it writes goes to files."""

    process: Process
    folder: Path

    @property
    def out(self) -> str:
        return read(self.folder / "out")

    @property
    def err(self) -> str:
        return read(self.folder / "err")

    async def end(self, within: float = 60) -> int:
        async with asyncio.timeout(within):
            return await self.process.wait()


Launch = Callable[..., Awaitable[Program]]


@pytest.fixture
async def launch(tmp_path: Path, mark: str) -> AsyncIterator[Launch]:
    """Start this Python with some arguments, in an empty directory; killed after the test."""
    started: list[Program] = []

    async def start(*args: object) -> Program:
        folder = tmp_path / f"output {len(started)}"
        folder.mkdir()
        environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environ.pop("SIDEQUEST_URL", None)
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *map(str, args), cwd=tmp_path, env=environ, stdin=asyncio.subprocess.DEVNULL,
                stdout=out, stderr=err, start_new_session=True,
            )  # fmt: skip
        started.append(Program(process, folder))
        return started[-1]

    yield start
    for program in started:
        if program.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(program.process.pid, signal.SIGKILL)
            await program.process.wait()


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def programs(page: str) -> dict[str, str]:
    """The programs on a page, by the file names that they carry."""
    return {name: text for text, name in PROGRAM.findall(page)}


# Scripts


async def test_the_readme_shows_the_hello_example_to_the_byte() -> None:
    assert programs(read(ROOT / "README.md"))["app.py"] == read(EXAMPLES / "hello.py")


async def test_hello_answers_in_a_moment_and_leaves_nothing(launch: Launch, mark: str) -> None:
    began = time.monotonic()
    hello = await launch(EXAMPLES / "hello.py")
    assert await hello.end() == 0
    assert time.monotonic() - began < 4  # it takes half a second; 2 s are promised
    assert (hello.out, hello.err) == ("hello world\n", "")
    assert not marked_processes(mark)


async def test_a_script_without_a_guard_gives_its_job_a_clear_error_and_is_no_fork_bomb(
    launch: Launch, tmp_path: Path, mark: str
) -> None:
    guarded = read(EXAMPLES / "hello.py")
    runs = tmp_path / "runs"
    (tmp_path / "unguarded.py").write_text(f"open({str(runs)!r}, 'a').write('run\\n')\n{without_guard(guarded)}")
    script = await launch("unguarded.py")
    most = 0
    while script.process.returncode is None:
        most = max(most, len(marked_processes(mark)))
        await asyncio.sleep(0.02)
    assert (script.process.returncode, script.out) == (1, "")
    assert "JobFailed: job 1 (unguarded:greet) failed: StartedInWorker" in script.err
    assert 'put `asyncio.run(main())` under `if __name__ == "__main__":`' in script.err
    assert most <= 5, "the script, its engine, a resource tracker, a worker and perhaps another one"
    assert read(runs).count("run") <= 3


def without_guard(text: str) -> str:
    guarded = 'if __name__ == "__main__":\n    asyncio'
    assert guarded in text
    return text.replace(guarded, "asyncio")


async def test_the_standard_library_is_indexed_and_each_failure_has_its_reason(launch: Launch, tmp_path: Path) -> None:
    began = time.monotonic()
    script = await launch(EXAMPLES / "stdlib_index.py")
    assert await script.end(100) == 0, script.err
    assert time.monotonic() - began < 60  # it takes 7 s on two cores
    report = read(tmp_path / "stdlib-index.md")
    assert report in script.out
    assert "- vanished_abc.py: the file is gone (attempt 3 of 3)\n" in report
    failed = {path for path in failures(report) if not path.startswith("vanished_")}
    assert failed == set(filter(is_broken, failed)), "nothing fails without a reason"
    assert failed >= set(filter(is_broken, (path.relative_to(STDLIB).as_posix() for path in STDLIB.glob("test/*/bad*.py"))))
    assert re.search(r"^\d+ of \d+ files: .*\.py$", script.out, re.MULTILINE), "progress shows while it runs"


async def test_the_same_files_give_the_same_report_on_every_database(launch: Launch, tmp_path: Path, url: str) -> None:
    for name, where in (("default.md", []), ("here.md", ["--url", url])):
        script = await launch(EXAMPLES / "stdlib_index.py", "--limit", 300, "--output", name, *where)
        assert await script.end() == 0, script.err
    assert read(tmp_path / "default.md") == read(tmp_path / "here.md")
    assert list(failures(read(tmp_path / "here.md")))
    async with Sidequest(url, engine="off") as sq:
        [record] = await sq.jobs.list(name="stdlib_index:report")
    assert record.progress is not None
    assert record.progress.done == record.progress.total, "the last report of an ended job is kept"


def failures(report: str) -> Iterator[str]:
    """The files that a report says could not be indexed."""
    _, _, failed = report.partition("## Failed\n\n")
    return (line.removeprefix("- ").partition(": ")[0] for line in failed.splitlines() if line)


def is_broken(path: str) -> bool:
    """Whether this file of the standard library is no valid Python."""
    try:
        ast.parse((STDLIB / path).read_bytes())
    except SyntaxError:
        return True
    return False


# Web apps


@dataclass(frozen=True)
class Service:
    """An example as a server: how it is started, what enqueues a job, what that job returns."""

    command: tuple[str, ...]
    enqueue: str
    result: object

    @staticmethod
    def of(framework: str, port: int) -> Service:
        if framework == "fastapi":
            uvicorn = ("-m", "uvicorn", "--app-dir", str(EXAMPLES), "fastapi_app:app", "--port", str(port))
            return Service(uvicorn, "/signups?email=ada@example.com", "welcomed ada@example.com")
        own = (str(EXAMPLES / "aiohttp_app.py"), str(port))
        return Service(own, "/thumbnails?width=2000&height=1000", {"width": 320, "height": 160})


@dataclass
class Web:
    """A running example, and a client that talks to it."""

    service: Service
    program: Program
    http: httpx.AsyncClient

    async def enqueue(self) -> int:
        answer = await self.http.post(self.service.enqueue)
        assert answer.status_code == 202, self.program.err
        return int(answer.json()["job"])

    async def completed(self, id: int) -> bool:
        job = (await self.http.get(f"/jobs/{id}")).json()
        assert job["state"] in ("waiting", "claimed", "running", "completed"), job
        return job["state"] == "completed" and job["result"] == self.service.result

    def engine(self) -> int | None:
        """The server's child that is the engine."""
        return next((pid for pid in children(self.program.process.pid) if b"sidequest.engine" in command(pid)), None)

    def signal(self, number: int) -> None:
        os.kill(self.program.process.pid, number)


Serve = Callable[[str], Awaitable[Web]]


@pytest.fixture
async def serve(launch: Launch) -> AsyncIterator[Serve]:
    """Start an example's server and wait until it answers."""
    clients: list[httpx.AsyncClient] = []

    async def start(framework: str) -> Web:
        port = free_port()
        service = Service.of(framework, port)
        program = await launch(*service.command)
        clients.append(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False))
        web = Web(service, program, clients[-1])
        await eventually(lambda: answers(web))
        return web

    yield start
    for client in clients:
        await client.aclose()


async def answers(web: Web) -> bool:
    assert web.program.process.returncode is None, web.program.err
    with suppress(httpx.TransportError):
        return (await web.http.get("/jobs/1")).status_code == 404
    return False


BOTH = pytest.mark.parametrize("framework", ["fastapi", "aiohttp"])


@BOTH
async def test_a_request_enqueues_and_a_worker_does_it(serve: Serve, framework: str) -> None:
    web = await serve(framework)
    id = await web.enqueue()
    await eventually(lambda: web.completed(id))


@BOTH
async def test_an_app_whose_engine_is_killed_keeps_serving_and_its_jobs_run_again(serve: Serve, framework: str) -> None:
    web = await serve(framework)
    killed = web.engine()
    assert killed is not None
    os.kill(killed, signal.SIGKILL)
    began = time.monotonic()
    id = await web.enqueue()
    assert time.monotonic() - began < 1, "enqueueing needs no engine"
    await eventually(lambda: web.completed(id), within=10)  # takes about a second; 5 s are promised
    assert web.engine() not in (killed, None)


@BOTH
async def test_sigterm_ends_the_app_its_engine_and_its_workers(serve: Serve, framework: str, mark: str) -> None:
    web = await serve(framework)
    id = await web.enqueue()
    await eventually(lambda: web.completed(id))
    assert len(marked_processes(mark)) >= 3, "the app, its engine, a worker"
    web.signal(signal.SIGTERM)
    assert await web.program.end(15) in (0, -signal.SIGTERM)  # uvicorn raises the signal again when it is done
    assert not marked_processes(mark)
    assert "Traceback" not in web.program.err


@BOTH
async def test_an_app_that_is_killed_takes_its_engine_and_workers_along(serve: Serve, framework: str, mark: str) -> None:
    web = await serve(framework)
    id = await web.enqueue()
    await eventually(lambda: web.completed(id))
    web.signal(signal.SIGKILL)
    await eventually(lambda: not marked_processes(mark), within=10)


async def test_a_fastapi_handler_awaits_a_result(serve: Serve) -> None:
    web = await serve("fastapi")
    assert (await web.http.get("/primes/100")).json() == {"primes": 25}


async def test_an_aiohttp_handler_awaits_a_result(serve: Serve) -> None:
    web = await serve("aiohttp")
    answer = await web.http.post("/thumbnails?width=640&height=320&wait=1")
    assert (answer.status_code, answer.json()) == (200, {"width": 320, "height": 160})


async def test_a_paused_queue_accepts_and_starts_nothing_until_it_is_resumed(serve: Serve) -> None:
    web = await serve("fastapi")
    assert (await web.http.post("/queues/mail/pause")).status_code == 404, "no job was ever in it"
    first = await web.enqueue()
    await eventually(lambda: web.completed(first))
    assert (await web.http.post("/queues/mail/pause")).json() == {"name": "mail", "paused": True}
    settled = await web.http.get("/primes/10")  # takes its turn after the engine was told
    assert settled.json() == {"primes": 4}
    await eventually(lambda: is_left_waiting(web))
    assert (await web.http.post("/queues/mail/resume")).json() == {"name": "mail", "paused": False}
    second = await web.enqueue()
    await eventually(lambda: web.completed(second))


async def is_left_waiting(web: Web) -> bool:
    """Whether a new mail still waits when a job of another queue, enqueued after it, is done."""
    mail = await web.enqueue()
    await web.http.get("/primes/10")
    return (await web.http.get(f"/jobs/{mail}")).json()["state"] == "waiting"


async def test_wrong_requests_are_refused_without_a_trace_in_the_log(serve: Serve) -> None:
    web = await serve("fastapi")
    statuses = [(await web.http.get(path)).status_code for path in ("/jobs/999", "/jobs/0", "/jobs/x", f"/jobs/{2**64}")]
    assert statuses == [404, 422, 422, 422]
    assert "Traceback" not in web.program.err


async def test_aiohttp_s_own_command_line_serves_the_example(launch: Launch) -> None:
    port = free_port()
    program = await launch("-c", textwrap.dedent(f"""
        import runpy, sys
        sys.path.insert(0, {str(EXAMPLES)!r})
        sys.argv = ["aiohttp.web", "-H", "127.0.0.1", "-P", "{port}", "aiohttp_app:make_app"]
        runpy.run_module("aiohttp.web", run_name="__main__", alter_sys=True)
    """))  # fmt: skip
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False) as http:
        web = Web(Service.of("aiohttp", port), program, http)
        await eventually(lambda: answers(web))
        id = await web.enqueue()
        await eventually(lambda: web.completed(id))
        web.signal(signal.SIGTERM)
        assert await program.end(15) == 0, program.err


def children(pid: int) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if int((entry / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(entry.name))
    return found


def command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


# Pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
async def test_every_program_on_a_page_runs_as_it_is_written(launch: Launch, tmp_path: Path, page: Path) -> None:
    found = programs(read(page))
    assert len(found) == read(page).count("\n```python\n"), "every Python block names its file, and no name comes twice"
    for name, text in found.items():
        (tmp_path / name).write_text(text)
    for name in found:
        program = await launch(name)
        assert await program.end() == 0, f"{name}: {program.err}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
async def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", read(page))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", ["example", "tests"])
async def test_the_readme_has_one_command_for_a_fresh_machine(name: str) -> None:
    [commands] = re.findall(rf"<!-- ci: {name} -->\n```sh\n(.*?)```", read(ROOT / "README.md"), re.DOTALL)
    assert commands.startswith("python3 -m venv .venv && .venv/bin/pip install ")
