"""Reading jobs: by id, by filter, page by page."""

from __future__ import annotations

from sidequest.backends.base import JobFilter
from sidequest.jobs import transitions
from sidequest.jobs.outcome import Completed, Failed, JobError
from sidequest.jobs.record import JobEnd, NewJob
from sidequest.jobs.states import State


async def ids_of(backend, **conditions: object) -> list[int]:
    return [job.id for job in await backend.list_jobs(JobFilter(**conditions), 100)]


async def pages_of(backend, which: JobFilter, length: int) -> list[list[int]]:
    """The ids of the first pages until one is empty, but not of more than ten."""
    pages: list[list[int]] = []
    before = None
    while len(pages) < 10 and (page := await backend.list_jobs(which, length, before)):
        pages.append([job.id for job in page])
        before = page[-1].id
    return pages


async def test_an_unknown_id_is_none(backend, insert):
    (id,) = await insert()
    assert await backend.get(id + 1) is None
    assert await backend.get(2**63 - 1) is None


async def test_get_many_gives_those_that_exist_by_id(backend, insert):
    ids = await insert(*(NewJob(f"shop:n{n}") for n in range(3)))
    found = await backend.get_many([ids[2], 999, ids[0], ids[2]])
    assert [(job.id, job.name) for job in found] == [(ids[0], "shop:n0"), (ids[2], "shop:n2")]
    assert await backend.get_many([]) == []


async def test_any_number_of_ids_can_be_asked_for(backend, insert):
    ids = await insert(NewJob("shop:a"), NewJob("shop:b"))
    asked = range(ids[0], ids[0] + 40_000)
    assert [job.id for job in await backend.get_many(asked)] == list(ids)
    assert await backend.ends(asked) == ([], frozenset(asked) - set(ids))
    assert await backend.delete(asked) == set(ids)


async def test_ends_tells_what_ended_and_what_does_not_exist(backend, insert, claim, clock, chance):
    await insert(*(NewJob(f"shop:n{n}") for n in range(5)))
    done, failed, canceled, running = await claim(4)
    error = JobError("error", "E", "no")
    await backend.apply(
        [
            transitions.finish(done, Completed("7"), None, clock.time, chance),
            transitions.finish(failed, Failed(error), None, clock.time, chance),
            transitions.start(running, clock.time),
            transitions.Change(canceled.id, "l1", (State.CLAIMED,), State.CANCELED, {"finished_at": clock.time}),
        ]
    )
    errors = (await backend.get(failed.id)).errors_json
    ends, missing = await backend.ends([done.id, failed.id, canceled.id, running.id, running.id + 1, 777])
    assert ends == [
        JobEnd(done.id, "shop:n0", State.COMPLETED, "7", None),
        JobEnd(failed.id, "shop:n1", State.FAILED, None, errors),
        JobEnd(canceled.id, "shop:n2", State.CANCELED, None, None),
    ]
    assert missing == {777}


async def test_the_newest_jobs_come_first_page_by_page(backend, insert):
    ids = list(await insert(*(NewJob("shop:pay") for _ in range(7))))
    newest = ids[::-1]
    assert await pages_of(backend, JobFilter(), 3) == [newest[:3], newest[3:6], newest[6:]]


async def test_the_filter_holds_on_every_page(backend, insert):
    ids = list(await insert(*(NewJob("shop:pay", queue="ab"[n % 2], tags=("t",)) for n in range(12))))
    newest = ids[-1::-2]
    for which in (JobFilter(queue="b"), JobFilter(queue="b", tag="t", states=(State.WAITING,))):
        assert await pages_of(backend, which, 4) == [newest[:4], newest[4:]]


async def test_a_page_is_not_shifted_by_what_comes_in_or_goes(backend, insert):
    ids = list(await insert(*(NewJob("shop:pay") for _ in range(6))))
    first = await backend.list_jobs(JobFilter(), 2)
    await insert(*(NewJob("shop:pay") for _ in range(3)))
    await backend.delete(ids[4:])
    assert [job.id for job in first] == ids[:3:-1]
    assert [job.id for job in await backend.list_jobs(JobFilter(), 2, first[-1].id)] == [ids[3], ids[2]]


async def test_what_came_in_since_is_listed_oldest_first(backend, insert):
    ids = list(await insert(*(NewJob("shop:pay", queue=queue) for queue in "abab")))
    assert [job.id for job in await backend.list_after(ids[0], None, 2)] == ids[1:3]
    assert [job.id for job in await backend.list_after(ids[0], "b", 10)] == [ids[1], ids[3]]
    assert await backend.list_after(ids[3], None, 10) == []


async def test_the_last_id_is_the_highest_there_is(backend, insert):
    assert await backend.last_id() == 0
    ids = await insert(NewJob("shop:a"), NewJob("shop:b"))
    assert await backend.last_id() == ids[1]


async def test_filter_by_states(backend, insert, claim):
    ids = await insert(*(NewJob("shop:pay") for _ in range(3)))
    await claim()
    assert await ids_of(backend, states=(State.CLAIMED,)) == [ids[0]]
    assert await ids_of(backend, states=(State.CLAIMED, State.WAITING)) == list(ids[::-1])
    assert await ids_of(backend, states=(State.FAILED,)) == []


async def test_filter_by_queue_and_name_is_exact(backend, insert):
    ids = await insert(NewJob("shop:pay", queue="mail"), NewJob("shop:pay2", queue="mail2"), NewJob("Shop:pay", queue="Mail"))
    assert await ids_of(backend, queue="mail") == [ids[0]]
    assert await ids_of(backend, name="shop:pay") == [ids[0]]
    for field in ("queue", "name"):
        for part in ("%", "ma%", "_ail", "shop:pa_", "mail ", "mail2 ", "MAIL", "ma.*", "^mail", ""):
            assert await ids_of(backend, **{field: part}) == [], part


async def test_filter_by_tag_finds_whole_tags_only(backend, insert):
    ids = await insert(
        NewJob("shop:a", tags=("red", "blue")),
        NewJob("shop:b", tags=("dark-red",)),
        NewJob("shop:c"),
        NewJob("shop:d", tags=("blue",)),
    )
    assert await ids_of(backend, tag="red") == [ids[0]]
    assert await ids_of(backend, tag="blue") == [ids[3], ids[0]]
    assert await ids_of(backend, tag="re") == []
    assert await ids_of(backend, tag="Red") == []
    for part in ('red","blue', "%", "_ed", "red%", "r.d", '"red"', "", "red "):
        assert await ids_of(backend, tag=part) == [], part


async def test_text_is_found_in_name_args_and_errors(backend, insert, claim, clock, chance):
    ids = await insert(
        NewJob("shop:needle"), NewJob("shop:b", '{"args":["a needle."]}'), NewJob("shop:c", queue="q"), NewJob("shop:d")
    )
    (held,) = await claim(queue="q")
    await backend.apply([transitions.finish(held, Failed(JobError("error", "E", "the needle")), None, clock.time, chance)])
    assert await ids_of(backend, text="needle") == [ids[2], ids[1], ids[0]]


async def test_text_is_literal_and_ascii_case_does_not_matter(backend, insert):
    ids = await insert(
        NewJob("shop:a", '{"args":["100%_of [it] \\\\ ÜBER"]}'), NewJob("shop:b", '{"args":["100xxof it"]}'), NewJob("shop:c")
    )
    for text in ("100%_OF", "%", "_", "[IT]", "\\\\", "ÜBER", "Über"):
        assert await ids_of(backend, text=text) == [ids[0]], text
    for text in ("' OR 1=1 --", "über", "1.0%", "100%_of.*", "[a-z]", "^shop", "100%_of [it] \\\\\\"):
        assert await ids_of(backend, text=text) == [], text
    assert await ids_of(backend, text="Shop:C") == [ids[2]]
    assert await ids_of(backend, text="x" * 100_000) == []


async def test_since_is_included_and_until_is_not(backend, insert, clock, tick):
    at = clock.time
    (id,) = await insert()
    assert await ids_of(backend, since=at, until=at + tick) == [id]
    assert await ids_of(backend, since=at + tick) == []
    assert await ids_of(backend, until=at) == []


async def test_all_conditions_must_hold(backend, insert, clock, tick):
    (id,) = await insert(NewJob("shop:pay", '{"args":["x"]}', queue="mail", tags=("red",)))
    fitting: dict[str, object] = {
        "states": (State.WAITING,), "queue": "mail", "name": "shop:pay", "tag": "red", "text": "x",
        "since": clock.time, "until": clock.time + tick,
    }  # fmt: skip
    others: dict[str, object] = {
        "states": (State.FAILED,), "queue": "q", "name": "n", "tag": "t", "text": "zzz",
        "since": clock.time + tick, "until": clock.time,
    }  # fmt: skip
    assert await ids_of(backend, **fitting) == [id]
    for name, value in others.items():
        assert await ids_of(backend, **{**fitting, name: value}) == [], name


async def test_hostile_filters_are_data(backend, insert):
    (id,) = await insert()
    for hostile in (
        "'; DROP TABLE sidequest_jobs; --",
        '"',
        "\\",
        "%",
        ":name",
        "{prefix}",
        "$1",
        "$where",
        "%s",
        "?",
        "🦄",
        "\n",
    ):
        for field in ("queue", "name", "tag", "text"):
            assert await ids_of(backend, **{field: hostile}) == [], (field, hostile)
    assert await ids_of(backend) == [id]
