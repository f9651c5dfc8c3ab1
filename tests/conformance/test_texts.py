"""Texts of every kind and size: what jobs and their users write travels unchanged, and is found again."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from sidequest.backends.base import EngineRecord, JobFilter
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed, Errored, Failed, JobError
from sidequest.jobs.record import NewJob, Progress
from sidequest.jobs.states import State
from sidequest.jobs.transitions import Change

MEBIBYTE = 1024 * 1024
TEXTS = {
    "letters of many scripts": "ünïcödé — 漢字 — ελληνικά",
    "emoji": "🦄👩‍👩‍👧‍👦🏳️‍🌈",
    "combining": "e\u0301 n\u0303 \u0301",
    "right to left": "\u202e\u05e9\u05dc\u05d5\u05dd \u200f\u0645\u0631\u062d\u0628\u0627\u202c",
    "the last code points": "\U0010ffff\ufffe\uffff\U0001fffe",
    "not NUL but close": "\x01\x1f\x7f\x80\x9f\u2028\ufeff",
    "quotes": "'single' \"double\" `back` '' \"\" ''' ;--",
    "backslashes": "\\ \\\\ \\' \\n \\u0041 \\0 \\%",
    "percents": "% %s %(name)s %% _ %5Cx41",
    "dollars": "$1 $name $$ $where ${x} $2y$",
    "colons": ":name ::text :1 a:b {prefix} {schema} {0} ?",
    "blanks": "  two before, one tab\t\r\n and three behind   ",
    "JSON": '{"a": [1, null, "b"], "$oid": "0"}',
    "empty": "",
}


SAID = [json.dumps(["<", text, ">"], ensure_ascii=False) for text in TEXTS.values()]


async def test_what_is_enqueued_travels_unchanged(backend, insert, claim):
    ids = [*await insert(*(NewJob("shop:pay", said, meta=said) for said in SAID))]
    for said in SAID:
        ids += await insert(NewJob("shop:alone", said, meta=said))
    said = [(said, said) for said in SAID] * 2
    assert [(job.args_json, job.meta_json) for job in await backend.get_many(ids)] == said
    assert [(job.args, job.meta) for job in await claim(99)] == said


async def test_what_a_job_leaves_behind_travels_unchanged(backend, insert, claim, clock, chance):
    """In one batch for all, so that texts stand beside each other."""
    await insert(*(NewJob("shop:pay") for _ in SAID))
    held = await claim(99)
    progress = [Progress(1, 2, text) for text in TEXTS.values()]
    await backend.save_progress([(job.id, "l1", said.to_json()) for job, said in zip(held, progress, strict=True)])
    assert [job.progress for job in await backend.list_after(0, None, 99)] == progress
    errors = [Errored(JobError("error", text, text, text), timedelta(0)) for text in TEXTS.values()]
    for outcomes in (errors, [Completed(said) for said in SAID]):
        ends = [transitions.finish(job, end, clock.time, clock.time, chance) for job, end in zip(held, outcomes, strict=True)]
        assert await backend.apply(ends) == frozenset()
        held = await claim(99, lease="l2") or held
    records = await backend.get_many([job.id for job in held])
    assert [[(said.type, said.message, said.trace) for said in job.errors] for job in records] == [
        [(text, text, text)] for text in TEXTS.values()
    ]
    found, _ = await backend.ends([job.id for job in held])
    assert [job.result_json for job in records] == [end.result for end in found] == SAID
    assert [job.errors_json for job in records] == [end.errors for end in found] == [job.errors for job in held]


@pytest.mark.parametrize("state", [None, State.WAITING, State.FAILED])
async def test_text_is_never_an_expression(backend, insert, claim, clock, state):
    """Neither with a due time nor without one: moves to waiting and moves of the due time are statements of their own."""
    for said in ("$state", "$$NOW", "$$REMOVE", ":now", "%s", "%(now)s", "NULL", "now()", "{0}", "{prefix}"):
        for columns in ({}, {"available_at": clock.time}):
            await insert(priority=1)
            (held,) = await claim(lease=said)
            texts = {"errors": said, "result": said, "engine": said}
            assert not await backend.apply([Change(held.id, said, (State.CLAIMED,), state, texts | columns)])
            record = await backend.get(held.id)
            assert (record.errors_json, record.result_json, record.engine, record.lease) == (said,) * 4
            await backend.apply([Change(held.id, said, (record.state,), State.COMPLETED, {})])


async def test_an_engine_may_be_on_any_host(backend, clock):
    hosts = [
        EngineRecord(f"e{n:02}", text[:60], 1, "1", "*", clock.time, clock.time, 0) for n, text in enumerate(TEXTS.values())
    ]
    for engine in hosts:
        await backend.register_engine(engine.id, engine.host, engine.pid, engine.version, engine.queues)
    assert await backend.list_engines() == hosts


async def test_text_is_found_as_it_is_stored(backend, insert):
    ids = await insert(*(NewJob("shop:pay", said) for said in SAID))
    for text in TEXTS.values():
        part = json.dumps(text, ensure_ascii=False)
        found = await backend.list_jobs(JobFilter(text=part), 99)
        assert [job.id for job in found] == [id for id, said in zip(ids, SAID, strict=True) if part in said], part


async def test_letters_that_look_alike_are_told_apart(backend, insert):
    ids = await insert(NewJob("shop:a", '["caf\u00e9"]'), NewJob("shop:b", '["cafe\u0301"]'), NewJob("shop:c", '["cafe"]'))
    for text, found in {'"caf\u00e9"': [0], '"cafe\u0301"': [1], '"cafe"': [2], "caf": [2, 1, 0], "stra\u00dfe": []}.items():
        assert [job.id for job in await backend.list_jobs(JobFilter(text=text), 9)] == [ids[n] for n in found], text


async def test_json_is_carried_and_not_understood(backend, insert, claim, clock, chance):
    said = [
        r'"\u0000"',
        r'"\ud800"',
        '""',
        "0",
        "-0.0",
        "1e400",
        "false",
        "null",
        '"null"',
        '"12"',
        " [ ] ",
        '{"b":1,"a":1,"b":2}',
    ]
    ids = await insert(*(NewJob("shop:pay", text, meta=text) for text in said))
    held = await claim(99)
    ends = [transitions.finish(job, Completed(job.args), clock.time, clock.time, chance) for job in held]
    assert await backend.apply(ends) == frozenset()
    assert [(job.args, job.meta) for job in held] == [(text, text) for text in said]
    records = await backend.get_many(ids)
    assert [(job.args_json, job.meta_json, job.result_json) for job in records] == [(text, text, text) for text in said]
    found, _ = await backend.ends(ids)
    assert [end.result for end in found] == said


async def test_the_longest_names_are_kept_apart(backend, insert, claim):
    """They differ in their last letter."""
    names = [letter * 199 + last for letter in "n.:" for last in "yz"]
    queues = [letter * 99 + last for letter in "q-:" for last in "yz"]
    tags = [tuple(f"{number:02}{letter * 97}{last}" for number in range(50)) for letter in "t_." for last in "yz"]
    jobs = [NewJob(name, queue=queue, tags=tags) for name, queue, tags in zip(names, queues, tags, strict=True)]
    for id, job in zip(await insert(*jobs), jobs, strict=True):
        record = await backend.get(id)
        assert (record.name, record.queue, record.tags) == (job.name, job.queue, job.tags)
        for which in (
            JobFilter(name=job.name),
            JobFilter(queue=job.queue),
            JobFilter(tag=job.tags[49]),
            JobFilter(tag=job.tags[0]),
        ):
            assert [found.id for found in await backend.list_jobs(which, 9)] == [id]
        assert [held.id for held in await claim(9, queue=job.queue)] == [id]


async def test_errors_may_be_as_long_as_they_get(backend, insert, claim, clock, chance):
    await insert(max_attempts=30)
    error = JobError("error", "E" * 200, "🦄" * 4_000, "漢" * 16_000)
    for attempt in range(1, 22):
        (held,) = await claim(lease=f"l{attempt}")
        outcome = Errored(error, clock.time - clock.time) if attempt < 21 else Failed(error)
        assert not await backend.apply([transitions.finish(held, outcome, None, clock.time, chance)])
    record = await backend.get(held.id)
    assert [(said.attempt, said.message, said.trace) for said in record.errors] == [
        (attempt, error.message, error.trace) for attempt in range(2, 22)
    ]


async def test_fifty_mebibytes_in_one_insert_and_in_one_apply(backend, insert, claim):
    """Each job at the limit of what one may bring, and leave behind."""
    texts = [json.dumps(chr(ord("A") + n % 26) * (MEBIBYTE - 2)) for n in range(50)]
    ids = await insert(*(NewJob("shop:pay", args=text) for text in texts))
    held = await claim(50)
    assert [job.id for job in held] == list(ids)
    assert [job.args for job in held] == texts
    ends = [
        Change(job.id, "l1", (State.CLAIMED,), State.COMPLETED, {"result": text})
        for job, text in zip(held, texts[::-1], strict=True)
    ]
    assert await backend.apply(ends) == frozenset()
    found, _ = await backend.ends(ids)
    assert [end.result for end in found] == texts[::-1]
    failed = [
        Change(job.id, "l1", (State.COMPLETED,), State.FAILED, {"errors": text, "result": None})
        for job, text in zip(held[:9], texts, strict=False)
    ]
    failed[7] = failed[7]._replace(lease="stolen")
    assert await backend.apply(failed) == {ids[7]}
    records = await backend.get_many(ids)
    assert [job.errors_json for job in records[:10]] == [*texts[:7], None, texts[8], None]
    assert [job.args_json for job in records] == texts
