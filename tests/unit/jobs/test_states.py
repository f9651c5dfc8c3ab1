"""The six states."""

from __future__ import annotations

import pytest

from sidequest.jobs.states import FINAL, HELD, State


def test_the_stored_values_are_the_six_names() -> None:
    assert [str(state) for state in State] == ["waiting", "claimed", "running", "completed", "failed", "canceled"]


def test_a_state_is_made_from_its_stored_value() -> None:
    assert State("canceled") is State.CANCELED


@pytest.mark.parametrize("state", [State.COMPLETED, State.FAILED, State.CANCELED])
def test_an_ended_job_is_in_a_final_state(state: State) -> None:
    assert state.final


@pytest.mark.parametrize("state", [State.WAITING, State.CLAIMED, State.RUNNING])
def test_a_job_that_has_not_ended_is_in_no_final_state(state: State) -> None:
    assert not state.final


def test_every_state_is_waiting_or_held_or_final() -> None:
    assert {State.WAITING} | HELD | FINAL == set(State)
    assert not HELD & FINAL
