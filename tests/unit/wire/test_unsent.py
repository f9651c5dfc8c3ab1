"""What a worker has not sent is found by who looks from outside, whole and with its number."""

from __future__ import annotations

import struct

from sidequest.wire.unsent import SIZE, Unsent, left_in, make_memory


def numbered(number: int, ends: bytes = b"") -> bytes:
    return struct.pack("<q", number) + ends


def test_what_is_added_lies_there_until_it_is_sent() -> None:
    memory = make_memory()
    unsent = Unsent(memory)
    seen = [left_in(memory)]
    for end in (b"one", b"two"):
        assert unsent.add(end)
        seen.append(left_in(memory))
    unsent.sent()
    seen.append(left_in(memory))
    assert seen == [numbered(0), numbered(0, b"one"), numbered(0, b"onetwo"), numbered(2)]


def test_a_batch_is_what_lies_there() -> None:
    memory = make_memory()
    unsent = Unsent(memory)
    unsent.add(b"one")
    assert unsent.batch() == left_in(memory) == numbered(0, b"one")


def test_numbers_go_on_after_a_batch() -> None:
    memory = make_memory()
    unsent = Unsent(memory)
    unsent.add(b"one")
    unsent.sent()
    unsent.add(b"two")
    assert left_in(memory) == numbered(1, b"two")


def test_an_end_without_room_goes_with_the_batch_and_is_numbered_too() -> None:
    memory = make_memory()
    unsent = Unsent(memory)
    unsent.add(b"one")
    large = b"x" * SIZE
    assert (unsent.add(large), unsent.batch(large)) == (False, numbered(0, b"one" + large))
    unsent.sent(1)
    assert left_in(memory) == numbered(2)


def test_it_takes_ends_up_to_its_last_byte() -> None:
    memory = make_memory()
    unsent = Unsent(memory)
    largest = b"x" * (SIZE - 16)
    assert (unsent.add(largest), unsent.add(b"y")) == (True, False)
    assert left_in(memory) == numbered(0, largest)


def test_without_memory_it_keeps_them_as_well() -> None:
    unsent = Unsent(None)
    unsent.add(b"one")
    assert unsent.batch() == numbered(0, b"one")


def test_sizes_that_make_no_sense_are_no_ends() -> None:
    memory = make_memory()
    for size in (-1, SIZE, 2**62):
        struct.pack_into("<qq", memory, 0, 3, size)
        assert left_in(memory) == numbered(3)
