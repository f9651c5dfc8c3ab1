"""Frames, however their bytes arrive."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidequest.wire.frames import LONGEST, BrokenFrame, Kind, Splitter, pack, pack_json, read_json, read_object

frames = st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=40)), max_size=6)


def header(length: int, kind: int) -> bytes:
    return struct.pack("<IB", length, kind)


@given(frames, st.data())
def test_frames_come_out_as_they_went_in_wherever_the_stream_is_cut(
    sent: list[tuple[Kind, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(pack(kind, payload) for kind, payload in sent)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)))))
    splitter = Splitter()
    came: list[tuple[Kind, bytes]] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        came += splitter.feed(stream[begin:end])
    assert came == sent


def test_frames_come_out_of_a_stream_of_single_bytes() -> None:
    stream = pack(Kind.WAKE) + pack(Kind.RUN, b"jobs") + pack(Kind.PING)
    splitter = Splitter()
    came = [frame for n in range(len(stream)) for frame in splitter.feed(stream[n : n + 1])]
    assert came == [(Kind.WAKE, b""), (Kind.RUN, b"jobs"), (Kind.PING, b"")]


def test_an_unfinished_frame_waits() -> None:
    splitter = Splitter()
    assert list(splitter.feed(pack(Kind.RUN, b"jobs")[:-1])) == []


@pytest.mark.parametrize("stream", [header(0, 0), header(0, 255), header(LONGEST + 1, Kind.RUN), b"Hello, world"])
def test_what_is_no_frame_breaks_the_stream(stream: bytes) -> None:
    with pytest.raises(BrokenFrame):
        list(Splitter().feed(stream))


def test_frames_before_a_broken_one_are_delivered() -> None:
    came = Splitter().feed(pack(Kind.WAKE) + header(0, 0))
    assert next(came) == (Kind.WAKE, b"")
    with pytest.raises(BrokenFrame):
        next(came)


def test_a_broken_stream_stays_broken() -> None:
    splitter = Splitter()
    for data in (header(0, 0), pack(Kind.WAKE)):
        with pytest.raises(BrokenFrame):
            list(splitter.feed(data))


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_a_broken_frame(stream: bytes) -> None:
    with suppress(BrokenFrame):
        list(Splitter().feed(stream))


def test_json_frames_hold_unicode_as_it_is() -> None:
    [(kind, payload)] = Splitter().feed(pack_json(Kind.REPLY, {"n": 1, "answer": "żółw 🐢"}))
    assert (kind, payload, read_json(payload)) == (
        Kind.REPLY,
        '{"n":1,"answer":"żółw 🐢"}'.encode(),
        {"n": 1, "answer": "żółw 🐢"},
    )


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"{'a': 1}", b"[" * 100_000])
def test_what_is_no_json_is_a_broken_frame(payload: bytes) -> None:
    with pytest.raises(BrokenFrame):
        read_json(payload)


@pytest.mark.parametrize("payload", [b"[]", b"1", b"null", b'"text"'])
def test_json_that_is_no_object_is_a_broken_frame_where_an_object_belongs(payload: bytes) -> None:
    with pytest.raises(BrokenFrame):
        read_object(payload)


def test_an_object_is_read() -> None:
    assert read_object(b'{"n": 1}') == {"n": 1}
