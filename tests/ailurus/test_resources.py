"""The arithmetic of resources, and that shapes and rooms travel as they always have."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ailurus.protocol.resources import Resources, Room, Shape

amounts = st.integers(0, 20)
resources = st.builds(Resources, cores=amounts, memory_mb=amounts, disk_mb=amounts, gpus=amounts)
needs = resources.filter(lambda one: one != Resources())
rooms = st.builds(
    Room, cores=amounts, memory_mb=amounts, disk_mb=amounts, gpus=amounts, nodes=amounts,
    seconds_left=st.none() | st.floats(0, 9),
)  # fmt: skip
shapes = st.builds(
    Shape, cores=amounts, memory_mb=amounts, disk_mb=amounts, gpus=amounts, nodes=amounts,
    walltime_s=st.integers(0, 9),
)  # fmt: skip


@given(resources, resources)
def test_what_is_taken_and_given_back_leaves_all_as_it_was(free, need):
    if need.within(free):
        assert free.less(need).plus(need) == free


@given(resources, resources)
def test_never_is_less_than_nothing_left(free, need):
    left = free.less(need)
    assert Resources().within(left)
    assert left.within(free)
    assert (left.plus(need) == free) == need.within(free)


@given(resources, needs)
def test_as_many_fit_as_it_holds_and_not_one_more(free, each):
    count = free.holds(each)
    assert each.times(count).within(free)
    assert not each.times(count + 1).within(free)


def test_how_often_nothing_fits_has_no_answer():
    with pytest.raises(ValueError, match="empty"):
        Resources(cores=1).holds(Resources())


@given(resources, st.integers(0, 5))
def test_times_is_repeated_addition(each, count):
    total = Resources()
    for _ in range(count):
        total = total.plus(each)
    assert each.times(count) == total


@given(resources, resources)
def test_at_most_is_the_largest_part_within_a_limit(one, limit):
    cut = one.at_most(limit)
    assert cut.within(one)
    assert cut.within(limit)
    assert (cut == one) == one.within(limit)


@given(shapes, rooms)
def test_a_shape_fits_when_each_node_has_enough_and_nodes_and_time_suffice(shape, room):
    enough = shape.each.within(Room.of(room, seconds_left=None))
    in_time = room.seconds_left is None or shape.walltime_s <= room.seconds_left
    assert shape.fits(room) == (enough and shape.nodes <= room.nodes and in_time)


@given(rooms, shapes)
def test_a_room_keeps_its_nodes_and_its_time_whatever_is_taken(room, shape):
    left = room.less(shape)
    assert isinstance(left, Room)
    assert (left.nodes, left.seconds_left) == (room.nodes, room.seconds_left)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Room(), b'{"cores":1,"memory_mb":0,"disk_mb":0,"gpus":0,"nodes":1,"seconds_left":null}'),
        (Shape(), b'{"cores":1,"memory_mb":2000,"disk_mb":0,"gpus":0,"nodes":1,"walltime_s":0}'),
    ],
)
def test_json_is_flat_and_in_the_order_of_versions_before(value, text):
    assert msgspec.json.encode(value) == text
    assert msgspec.json.decode(b"{}", type=type(value)) == value
