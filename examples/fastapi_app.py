"""A FastAPI service with background jobs.

    pip install fastapi uvicorn
    uvicorn --app-dir examples fastapi_app:app

    curl -X POST 'localhost:8000/signups?email=ada@example.com'
    curl localhost:8000/jobs/1
    curl localhost:8000/primes/200000

The database is SIDEQUEST_URL, else sqlite:///sidequest.db.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path

from sidequest import JobNotFound, QueueNotFound, Sidequest, job

sq = Sidequest()
app = FastAPI(title="Sidequest and FastAPI", lifespan=sq.lifespan)

JobId = Annotated[int, Path(ge=1, lt=2**63)]
QueueName = Annotated[str, Path(pattern="^[a-z]{1,50}$")]


@job(queue="mail", max_attempts=3, timeout=30)
async def welcome(email: str) -> str:
    """Async, because it waits: many of these share a worker process."""
    await asyncio.sleep(0.05)  # stands for a conversation with a mail server
    return f"welcomed {email}"


@job(queue="numbers", timeout=60)
def count_primes(below: int) -> int:
    """Plain, because it computes: alone in a worker process, so no request waits for it."""
    sieve = bytearray([1]) * below
    for n in range(2, int(below**0.5) + 1):
        if sieve[n]:
            sieve[n * n :: n] = bytes(len(range(n * n, below, n)))
    return sum(sieve[2:])


@app.post("/signups", status_code=202)
async def sign_up(email: str) -> dict[str, int]:
    """Answers at once; the mail is sent by a worker."""
    handle = await welcome.enqueue(email)
    return {"job": handle.id}


@app.get("/primes/{below}")
async def primes(below: Annotated[int, Path(ge=0, le=10_000_000)]) -> dict[str, int]:
    """Waits for the result; other requests are served meanwhile."""
    handle = await count_primes.enqueue(below)
    try:
        return {"primes": await handle.result(timeout=30)}
    except TimeoutError:
        raise HTTPException(504, f"job {handle.id} goes on: ask /jobs/{handle.id}") from None


@app.get("/jobs/{id}")
async def show(id: JobId) -> dict[str, Any]:
    """Where a job stands."""
    try:
        record = await sq.jobs.get(id)
    except JobNotFound as error:
        raise HTTPException(404, str(error)) from None
    return {
        "name": record.name,
        "state": record.state,
        "attempt": record.attempt,
        "result": record.result,
        "errors": [f"{error.type}: {error.message}" for error in record.errors],
    }


@app.post("/queues/{name}/{action}")
async def change_queue(name: QueueName, action: Annotated[str, Path(pattern="^(pause|resume)$")]) -> dict[str, Any]:
    """A paused queue accepts jobs and starts none. In a real service this needs a login."""
    try:
        queue = await (sq.queues.pause(name) if action == "pause" else sq.queues.resume(name))
    except QueueNotFound as error:
        raise HTTPException(404, str(error)) from None
    return {"name": queue.name, "paused": queue.paused}
