"""What commands print: aligned, cut to the terminal, harmless to it, and with the same JSON keys always."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from sidequest.cli import output
from sidequest.jobs.queue import QueueRecord
from sidequest.jobs.record import JobRecord, Progress
from sidequest.jobs.states import State

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
ERRORS = json.dumps([
    {"kind": "error", "type": "ValueError", "message": "no\nsuch thing", "trace": "Traceback:\n  \x1b[31mboom", "attempt": 1,
     "at": NOON.isoformat()},
])  # fmt: skip
JOB = JobRecord(
    id=7, name="shop:send", queue="mail", state=State.WAITING, priority=0, available_at=NOON, attempt=0, max_attempts=5,
    timeout=timedelta(seconds=30), kill_grace=None, backoff="exponential", retry_delay=timedelta(seconds=1), isolated=False,
    tags=("a", "b"), engine=None, lease=None, inserted_at=NOON, claimed_at=None, started_at=None, finished_at=None,
    cancel_requested_at=None, interrupts=0, crashes=0, snoozes=0, progress=None,
    args_json='{"args":[{"$type":"date","value":"2026-11-23"}]}', meta_json=None, result_json=None, errors_json=None,
)  # fmt: skip


def test_columns_are_aligned_and_lines_do_not_end_in_spaces() -> None:
    assert output.table(("A", "LONG", "C"), [("1", "x", ""), ("22222", "y", "end")]) == [
        "A      LONG  C",
        "1      x",
        "22222  y     end",
    ]


def test_lines_are_cut_to_the_width_of_the_terminal() -> None:
    assert output.table(("A", "B"), [("1", "0123456789")], width=8) == ["A  B", "1  0123…"]
    assert output.table(("A", "B"), [("1", "01234")], width=8) == ["A  B", "1  01234"]


def test_a_table_without_rows_is_its_head() -> None:
    assert output.table(("A", "B"), []) == ["A  B"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("página 日本", "página 日本"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("two\nlines\t", "two\\nlines\\t"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eevil", "\\u202eevil"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_could_speak_to_the_terminal_is_shown_and_not_sent(text: str, shown: str) -> None:
    assert output.printable(text) == shown


def test_a_job_always_has_the_same_json_keys() -> None:
    full = replace(
        JOB,
        state=State.FAILED,
        finished_at=NOON,
        progress=Progress(1, 2, "x"),
        result_json="1",
        errors_json=ERRORS,
        meta_json="{}",
    )
    assert output.job_document(JOB).keys() == output.job_document(full).keys()
    json.dumps(output.job_document(full))


def test_json_has_iso_times_seconds_and_arguments_as_they_are_stored() -> None:
    assert output.job_document(JOB) == {
        "id": 7,
        "name": "shop:send",
        "queue": "mail",
        "state": "waiting",
        "priority": 0,
        "attempt": 0,
        "max_attempts": 5,
        "enqueued_at": "2026-11-23T12:00:00.000000+00:00",
        "available_at": "2026-11-23T12:00:00.000000+00:00",
        "claimed_at": None,
        "started_at": None,
        "finished_at": None,
        "cancel_requested_at": None,
        "timeout": 30.0,
        "kill_grace": None,
        "backoff": "exponential",
        "retry_delay": 1.0,
        "isolated": False,
        "tags": ["a", "b"],
        "engine": None,
        "interrupts": 0,
        "crashes": 0,
        "snoozes": 0,
        "progress": None,
        "args": {"args": [{"$type": "date", "value": "2026-11-23"}]},
        "meta": None,
        "result": None,
        "errors": [],
    }


def test_a_stored_text_that_is_no_json_is_shown_as_it_is() -> None:
    assert output.stored("{broken") == "{broken"
    assert output.stored("[" * 100_000) == "[" * 100_000
    assert output.stored(None) is None


@pytest.mark.parametrize(
    ("record", "note"),
    [
        (JOB, ""),
        (replace(JOB, available_at=NOON + timedelta(hours=1)), "due 2026-11-23T13:00:00+00:00"),
        (replace(JOB, errors_json=ERRORS), "ValueError: no"),
        (
            replace(JOB, errors_json=ERRORS, available_at=NOON + timedelta(seconds=1)),
            "due 2026-11-23T12:00:01+00:00; ValueError: no",
        ),
        (replace(JOB, state=State.FAILED, errors_json=ERRORS), "ValueError: no"),
        (replace(JOB, state=State.COMPLETED, errors_json=ERRORS), ""),
        (replace(JOB, state=State.RUNNING, progress=Progress(3, 10, "page 3")), "3/10 page 3"),
        (replace(JOB, state=State.RUNNING, progress=Progress(0.5)), "0.5"),
        (replace(JOB, state=State.RUNNING, cancel_requested_at=NOON), "cancel requested"),
    ],
)
def test_the_note_says_what_matters_about_the_job(record: JobRecord, note: str) -> None:
    assert output.job_note(record, NOON) == note


def test_a_row_has_a_cell_for_each_column() -> None:
    assert output.job_row(JOB, NOON) == ("7", "waiting", "mail", "shop:send", "0/5", "2026-11-23T12:00:00+00:00", "")
    assert len(output.job_row(JOB, NOON)) == len(output.JOB_HEAD)


def test_show_leaves_out_what_was_never_set_and_ends_with_the_traces() -> None:
    lines = output.job_lines(replace(JOB, errors_json=ERRORS, result_json="0"))
    assert "timeout       30.0" in lines
    assert "result        0" in lines
    assert not any(line.startswith(("crashes", "engine", "isolated")) for line in lines)
    assert lines[-3:] == [
        "attempt 1 at 2026-11-23T12:00:00+00:00: error: ValueError: no\\nsuch thing",
        "    Traceback:",
        "      \\x1b[31mboom",
    ]


def test_queues_and_counts_have_all_their_keys() -> None:
    queue = QueueRecord("mail", 3, -1, paused=True)
    assert output.queue_document(queue) == {"name": "mail", "concurrency": 3, "priority": -1, "paused": True}
    assert output.queue_row(queue) == ("mail", "3", "-1", "yes")
    assert output.counts_document({State.FAILED: 2}) == {
        "waiting": 0, "claimed": 0, "running": 0, "completed": 0, "failed": 2, "canceled": 0,
    }  # fmt: skip
