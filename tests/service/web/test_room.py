"""Bodies are paid for before they are read."""

from __future__ import annotations

import pytest

from service.problems import Overloaded
from service.web.room import Room


def environ(length: int) -> dict[str, str]:
    return {"CONTENT_LENGTH": str(length)}


def test_bodies_share_the_room_and_give_it_back():
    """Thirty-two threads with 20 MiB each took 1.5 GB: more than a small container has."""
    room = Room(total=100, longest=80)
    with room.held(environ(60), "image/jpeg"):
        with pytest.raises(Overloaded, match="hold 60 bytes, this one takes about 50; this server has 100"), room.held(
            environ(50), "image/jpeg"
        ):
            pytest.fail("entered")
        with room.held(environ(40), ""):
            pass
    with room.held(environ(80), ""):
        pass


def test_the_copies_of_json_count():
    """Its text, the base64 in it and the bytes behind that lie in memory at once."""
    room = Room(total=100, longest=80)
    with room.held(environ(20), "application/json"), pytest.raises(Overloaded), room.held(environ(21), ""):
        pytest.fail("entered")


def test_a_body_without_a_length_counts_as_the_longest():
    """Chunks say nothing about what follows."""
    room = Room(total=100, longest=80)
    with room.held({"HTTP_TRANSFER_ENCODING": "chunked"}, ""), pytest.raises(Overloaded), room.held(environ(21), ""):
        pytest.fail("entered")


def test_an_empty_room_takes_any_body():
    """A machine with little memory refuses nobody for good."""
    with Room(total=10, longest=80).held(environ(80), "application/json"):
        pass


def test_room_is_given_back_after_a_failure():
    """A leak would end in refusing everybody."""
    room = Room(total=100, longest=80)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), room.held(environ(80), ""):
            raise ZeroDivisionError
    with room.held(environ(80), ""):
        pass
