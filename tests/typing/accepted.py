"""What type checkers must accept, with the types that they must find. Never run."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from aiohttp import web
from fastapi import FastAPI
from litestar import Litestar
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.applications import Starlette

from sidequest import (
    CancelAnswer,
    Client,
    EngineRecord,
    Fail,
    Job,
    JobCall,
    JobContext,
    JobError,
    JobHandle,
    JobRecord,
    Retry,
    Sidequest,
    Snooze,
    State,
    Status,
    call_by_name,
    job,
)


@dataclass
class Receipt:
    total: int


@job
async def send(to: str, subject: str, *, retries: int = 3) -> Receipt:
    return Receipt(1)


@job(queue="cpu", max_attempts=5, timeout=30, kill_grace=timedelta(seconds=2), isolated=True)
def render(n: int) -> bytes:
    return b""


@job(queue="io")
async def sync_files(ctx: JobContext, path: str) -> None:
    ctx.progress(1, 2, "page 1")
    ctx.log("half")
    await ctx.sidequest.enqueue(send.call("a", "b"))
    raise Snooze(timedelta(minutes=5))


@job(name="reports.daily", aliases=["reports.nightly"], priority=5, tags=("report",), meta={"team": "b"}, delay=5)
def report(ctx: JobContext, day: int = 0) -> int:
    if ctx.canceled or ctx.shutting_down:
        raise Fail("gone")
    raise Retry("429", delay=30)


def patience(attempt: int, error: BaseException) -> float | None:
    return None if attempt > 3 else 2.0


@job(backoff=patience, retry_delay=0.5, retry_on=(OSError, TimeoutError), discard_on=ValueError)
async def fetch(url: str) -> dict[str, list[int]]:
    return {}


class EmailJob(Job):
    queue = "mail"
    timeout = 30

    async def run(self, to: str, subject: str = "hi") -> dict[str, int]:
        self.ctx.progress(1)
        if not to:
            self.fail("nobody")
        return {}


class Tenant(Job):
    def __init__(self, tenant: str) -> None:
        self.tenant = tenant

    def run(self, day: int) -> list[int]:
        return []


sq = Sidequest("sqlite:///x.db", queues={"default": 10, "mail": {"concurrency": 2}}, job_defaults={"max_attempts": 3})
client: Client = sq
fastapi_app = FastAPI(lifespan=sq.lifespan)
starlette_app = Starlette(lifespan=sq.lifespan)
litestar_app = Litestar(lifespan=[sq.lifespan])
aiohttp_app = web.Application()
aiohttp_app.cleanup_ctx.append(sq.lifespan)


async def in_a_transaction(session: AsyncSession) -> None:
    handle = await send.options(delay=timedelta(minutes=1), connection=session).enqueue("a", "b")
    assert_type(handle, JobHandle[Receipt])
    await sq.enqueue(send.call("a", "b"), connection=session)
    await sq.enqueue_many([send.call("a", "b")], connection=session)
    Sidequest("postgresql://host/shop", pool=object())


async def main() -> None:
    async with sq:
        handle = await send.enqueue("a", "b", retries=1)
        assert_type(handle, JobHandle[Receipt])
        assert_type(await handle.result(timeout=5), Receipt)
        assert_type(await handle.wait(), State)
        assert_type(await handle.cancel(), CancelAnswer)
        assert_type(await handle.refresh(), JobRecord)
        assert_type(handle.id, int)
        assert_type(handle.duplicate, bool)
        assert_type(sq.handle(7), JobHandle[Any])

        assert_type(await render.enqueue(3), JobHandle[bytes])
        assert_type(await sync_files.enqueue("p"), JobHandle[None])
        assert_type(await report.enqueue(), JobHandle[int])
        assert_type(await report.enqueue(day=3), JobHandle[int])
        assert_type(await fetch.enqueue("u"), JobHandle[dict[str, list[int]]])

        urgent = send.options(
            queue="vip", priority=1, max_attempts=2, timeout=None, kill_grace=1, backoff="fixed", retry_delay=timedelta(1),
            delay=timedelta(minutes=1), isolated=True, tags=["a"], meta={"b": 1},
        )  # fmt: skip
        assert_type(await urgent.enqueue("a", "b"), JobHandle[Receipt])
        assert_type(await send.options(at=datetime.now(UTC)).enqueue("a", "b"), JobHandle[Receipt])

        assert_type(await EmailJob.enqueue("a", subject="b"), JobHandle[dict[str, int]])
        assert_type(await EmailJob.options(queue="q").enqueue("a"), JobHandle[dict[str, int]])
        assert_type(EmailJob.call("a"), JobCall[dict[str, int]])
        assert_type(await Tenant("acme").enqueue(3), JobHandle[list[int]])
        assert_type(await Tenant("acme").options(delay=5).enqueue(3), JobHandle[list[int]])

        assert_type(await sq.enqueue(send.call("a", "b"), delay=5), JobHandle[Receipt])
        assert_type(await sq.enqueue(Tenant("acme").call(3)), JobHandle[list[int]])
        assert_type(await client.enqueue(render.call(3)), JobHandle[bytes])
        assert_type(call_by_name("billing:charge", 3, dry=True), JobCall[Any])
        await sq.enqueue_many([send.call(str(i), "x") for i in range(3)] + [])
        await sq.enqueue_many([send.call("a", "b"), render.call(3), EmailJob.call("a"), call_by_name("x")])

        for record in await sq.jobs.list(queue="mail"):
            assert_type(record.state, State)
            assert_type(record.errors, tuple[JobError, ...])
            await sq.jobs.cancel(record.id)
        await sq.queues.pause("mail")
        for engine in await sq.engines.list():
            assert_type(engine, EngineRecord)
        status = await sq.status()
        assert_type(status, Status)
        assert_type(status.engine.claiming, bool | None)
        assert_type(status.database.round_trip, timedelta | None)

    await sq.start()
    sq.hurry()
    sq.kill()
    await sq.wait()
    await sq.stop()
    assert_type(await send("a", "b"), Receipt)
    assert_type(render(3), bytes)  # a sync job called directly is the plain function
    assert_type(await sync_files(JobContext(), "p"), None)
    assert_type(report(JobContext(), 3), int)
    assert_type(await EmailJob().run("a"), dict[str, int])
    assert_type(Tenant("acme").run(3), list[int])
