"""The messages between engine and worker."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidequest.jobs.outcome import (
    Completed,
    Crashed,
    Errored,
    Failed,
    Interrupted,
    JobError,
    Outcome,
    Released,
    SharedCrash,
    Snoozed,
    Stopped,
)
from sidequest.jobs.record import ClaimedJob, Progress
from sidequest.wire import messages
from sidequest.wire.frames import BrokenFrame, Kind, Splitter
from sidequest.wire.messages import Attempt, End, StopReason

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
END = struct.Struct("<qBqqI")
FIRST = struct.pack("<q", 0)
"""Before this worker's first end."""
ERROR = JobError("error", "shop.Żółw", "🐢 is slow", "Traceback …", 2, datetime(2026, 11, 23, tzinfo=UTC))


def payload(frame: bytes, kind: Kind) -> bytes:
    [(said, content)] = Splitter().feed(frame)
    assert said is kind
    return content


def job(**changes: Any) -> ClaimedJob:
    made = ClaimedJob(
        id=7, lease="lease-1", name="shop:send", queue="mail", args="{}", attempt=2, max_attempts=5, timeout_ms=1_500,
        kill_grace_ms=None, backoff="fixed", retry_delay_ms=1_000, isolated=False, tags='["a"]', meta='{"b":1}', errors=None,
        interrupts=0, crashes=0, snoozes=0, enqueued_us=123_456,
    )  # fmt: skip
    return made._replace(**changes)


def sent(*jobs: ClaimedJob) -> list[Attempt]:
    return list(messages.read_run(payload(messages.pack_run(jobs), Kind.RUN)))


def came(*ends: End) -> list[End]:
    return messages.read_ends(FIRST + b"".join(messages.pack_end(end) for end in ends))[0]


def test_a_job_arrives_as_an_attempt() -> None:
    assert sent(job()) == [Attempt(7, 2, 5, 1_500, 123_456, "shop:send", "mail", "{}", '["a"]', '{"b":1}')]


def test_many_jobs_arrive_in_order() -> None:
    assert [attempt.id for attempt in sent(job(id=3), job(id=1), job(id=2))] == [3, 1, 2]


def test_no_timeout_stays_no_timeout() -> None:
    assert sent(job(timeout_ms=None))[0].timeout_ms is None


def test_no_tags_and_no_meta_are_empty() -> None:
    [attempt] = sent(job(tags=None, meta=None))
    assert (attempt.tags, attempt.meta) == ("", "")


@given(INT64, TEXT, TEXT, TEXT, TEXT, TEXT)
def test_any_text_arrives_as_it_was(id: int, name: str, queue: str, args: str, tags: str, meta: str) -> None:
    [attempt] = sent(job(id=id, name=name, queue=queue, args=args, tags=tags, meta=meta))
    assert (attempt.id, *attempt[5:]) == (id, name, queue, args, tags, meta)


@pytest.mark.parametrize(
    "outcome",
    [
        Completed(None),
        Completed("null"),
        Completed('"żółw 🐢"'),
        Errored(ERROR),
        Errored(ERROR, timedelta(milliseconds=1_500)),
        Errored(ERROR, timedelta(0)),
        Failed(ERROR),
        Interrupted(ERROR),
        Released(),
        Released(timedelta(seconds=30), ERROR),
        Snoozed(timedelta(days=36_500)),
        Stopped(),
    ],
)
def test_every_outcome_that_a_worker_can_send_arrives_as_it_was(outcome: Outcome) -> None:
    end = End(2**63 - 1, outcome, 5, 2**60)
    assert came(end) == [end]


@pytest.mark.parametrize("outcome", [Crashed(ERROR), SharedCrash(ERROR)])
def test_a_worker_cannot_say_that_it_crashed(outcome: Outcome) -> None:
    with pytest.raises(AssertionError):
        messages.pack_end(End(1, outcome, 0, 0))


def test_many_ends_arrive_in_order() -> None:
    ends = [End(n, Completed(str(n)) if n % 2 else Stopped(), n, n) for n in range(5)]
    assert came(*ends) == ends


def test_ends_that_are_known_already_do_not_count_twice() -> None:
    ends = [End(n, Completed(str(n)), n, n) for n in range(4)]
    message = struct.pack("<q", 3) + b"".join(map(messages.pack_end, ends))
    assert messages.read_ends(message, known=5) == (ends[2:], 7)
    assert messages.read_ends(message, known=9) == ([], 9)


def test_ends_before_which_others_must_have_been_lost_are_a_broken_frame() -> None:
    with pytest.raises(BrokenFrame, match="end 3 came where 2 was due"):
        messages.read_ends(struct.pack("<q", 3), known=2)


def test_errors_are_cut_to_what_is_stored() -> None:
    [end] = came(End(1, Failed(JobError("error", "E", "x" * 10_000, "y" * 100_000)), 0, 0))
    assert isinstance(end.outcome, Failed)
    assert (len(end.outcome.error.message), len(end.outcome.error.trace) <= 16_000) == (4_000, True)


def test_errors_with_text_that_is_no_utf_8_arrive_readable() -> None:
    [end] = came(End(1, Failed(JobError("error", "E", "file \udcff")), 0, 0))
    assert end.outcome == Failed(JobError("error", "E", "file \\udcff"))


def test_starts_arrive() -> None:
    assert list(messages.read_started(payload(messages.pack_started([(1, 5), (2, 6)]), Kind.STARTED))) == [(1, 5), (2, 6)]


def test_ids_arrive() -> None:
    assert messages.read_ids(payload(messages.pack_ids(Kind.RETURNED, (3, 1)), Kind.RETURNED)) == [3, 1]


@pytest.mark.parametrize("reason", StopReason)
def test_a_request_to_stop_arrives(reason: StopReason) -> None:
    assert messages.read_halt(payload(messages.pack_halt(7, reason), Kind.HALT)) == (7, reason)


def test_progress_arrives_as_the_text_that_is_stored() -> None:
    progress = Progress(1, 2.5, "pół")
    assert messages.read_progress(payload(messages.pack_progress(7, progress), Kind.PROGRESS)) == (7, progress.to_json())


def test_stop_reasons_say_what_happened() -> None:
    assert [reason.describe(1.5) for reason in StopReason] == [
        "the timeout of 1.5 s was reached",
        "the job was canceled",
        "the engine is shutting down",
        "its engine could not keep its hold on it",
    ]


def test_a_timeout_of_unknown_length_is_still_told() -> None:
    assert StopReason.TIMEOUT.describe() == "the timeout was reached"


def test_findings_arrive_and_are_cut() -> None:
    frame = messages.pack_spoiled([1, 2], ["the umask is 0777", "x" * 1_000])
    found = messages.read_spoiled(payload(frame, Kind.SPOILED))
    assert found == ([1, 2], ["the umask is 0777", "x" * messages.LONGEST_FINDING])


# What a job may write to the worker's socket behind our back


def ends_of(content: object) -> bytes:
    text = json.dumps(content).encode()
    return FIRST + END.pack(1, 1, 0, 0, len(text)) + text


READERS: list[Callable[[bytes], object]] = [
    lambda data: list(messages.read_run(data)),
    messages.read_ends,
    lambda data: messages.read_ends(FIRST + data),
    lambda data: list(messages.read_started(data)),
    messages.read_ids,
    messages.read_halt,
    messages.read_progress,
    messages.read_spoiled,
]


@pytest.mark.parametrize("read", READERS)
@given(data=st.binary(max_size=120))
@example(data=b"\xff" * 41)
@example(data=struct.pack("<q", 1) + b"\xff")
@example(data=struct.pack("<qB", 1, 9))
def test_hostile_bytes_are_a_message_or_a_broken_frame(read: Callable[[bytes], object], data: bytes) -> None:
    with suppress(BrokenFrame):
        read(data)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(
    st.sampled_from(["kind", "error", "delay", "at", "attempt"]), inner)))  # fmt: skip
def test_hostile_outcomes_are_a_broken_frame_or_an_outcome(content: object) -> None:
    with suppress(BrokenFrame):
        messages.read_ends(ends_of(content))


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"kind": "crashed"},
        {"kind": "snoozed", "delay": 1e300},
        {"kind": "snoozed", "delay": None},
        {"kind": "errored", "error": "no object", "delay": None},
        {"kind": "failed", "error": {"at": "no time"}},
    ],
)
def test_an_outcome_that_makes_no_sense_is_a_broken_frame(content: object) -> None:
    with pytest.raises(BrokenFrame):
        messages.read_ends(ends_of(content))


def test_an_outcome_that_is_nested_too_deeply_is_a_broken_frame() -> None:
    content = b"[" * 100_000
    with pytest.raises(BrokenFrame):
        messages.read_ends(FIRST + END.pack(1, 1, 0, 0, len(content)) + content)


def cut(frame: bytes) -> Iterable[bytes]:
    return (frame[:n] for n in range(1, len(frame)))


def test_an_end_that_was_cut_off_is_a_broken_frame() -> None:
    for part in cut(messages.pack_end(End(1, Completed('"a result"'), 0, 0))):
        with pytest.raises(BrokenFrame):
            messages.read_ends(FIRST + part)


def test_a_job_that_was_cut_off_is_a_broken_frame() -> None:
    for part in cut(payload(messages.pack_run([job()]), Kind.RUN)):
        with pytest.raises(BrokenFrame):
            list(messages.read_run(part))
