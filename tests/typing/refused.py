"""What type checkers must refuse: every line marked with E and a number, and no other. Never run."""

from sidequest import Job, JobContext, Sidequest, call_by_name, job


@job
async def send(to: str, subject: str, *, retries: int = 3) -> int:
    return 1


@job(queue="x")
async def with_context(ctx: JobContext, path: str) -> None: ...


@job
def render(n: int) -> bytes:
    return b""


class EmailJob(Job):
    async def run(self, to: str, subject: str = "hi") -> dict[str, int]:
        return {}


class Tenant(Job):
    def __init__(self, tenant: str) -> None:
        self.tenant = tenant

    async def run(self, day: int) -> list[int]:
        return []


async def main(sq: Sidequest) -> None:
    await send.enqueue("a")  # E1 missing argument
    await send.enqueue("a", 3)  # E2 wrong type
    await send.enqueue("a", "b", retry=1)  # E3 unknown keyword
    await with_context.enqueue(3)  # E4 the context is not part of the call
    await EmailJob.enqueue(3)  # E5 wrong type
    await EmailJob.enqueue()  # E6 missing argument
    await send.options(quee="x").enqueue("a", "b")  # E7 unknown option
    await EmailJob.options(queue="q").enqueue(7)  # E8 wrong type after options
    await sq.enqueue_many([send.call("a")])  # E9 missing argument in a call
    await Tenant(3).enqueue(3)  # E10 wrong type for the constructor
    await Tenant("acme").enqueue("x")  # E11 wrong type
    (await (await send.enqueue("a", "b")).result()).upper()  # E12 the result is an int
    send.enqueue("a", "b")  # E13 forgot await
    await sq.enqueue(send.call("a", 1))  # E14 wrong type in a call
    await sq.enqueue(send)  # E15 a job is not a call
    await sq.enqueue(send.call("a", "b"), quee="x")  # E16 unknown option
    await send.options(priority="high").enqueue("a", "b")  # E17 wrong type of an option
    await send.options(backoff="linear").enqueue("a", "b")  # E18 no such backoff
    await send("a")  # E19 the plain function wants both
    render("3")  # E20 the plain function wants an int
    await with_context("p")  # E21 the plain function wants the context
    await (await render.enqueue(3)).result(timeout="5")  # E22 a timeout is a number
    call_by_name(7)  # E23 a name is a string
    await sq.handle("7").wait()  # E24 an id is an integer


@job(quee="x")  # E25 unknown option
async def unknown_option() -> None: ...


@job(max_attempts="3")  # E26 wrong type of an option
async def wrong_option() -> None: ...
