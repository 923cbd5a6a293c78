"""The arithmetic of resources, and that shapes and rooms travel as they always have."""

from __future__ import annotations

import itertools
from functools import cache

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ailurus.protocol.resources import Group, Resources, Room, Shape

NO_GPU = b'"gpus":0,"gpu_share":0,"gpu_parts":[]'
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
small = st.builds(
    Resources, cores=st.integers(1, 4), memory_mb=st.integers(0, 4), gpus=st.integers(0, 1)
)
many_nodes = st.lists(small, min_size=1, max_size=4)
small_shapes = st.builds(
    Shape, cores=st.integers(1, 4), memory_mb=st.integers(0, 3), gpus=st.integers(0, 1),
    nodes=st.integers(1, 3),
)  # fmt: skip


def room_of(free, seconds_left=None):
    """The room of a worker whose nodes have so much free."""
    return Room.over({one: free.count(one) for one in free}, seconds_left=seconds_left)


def listed(room):
    """What each node of a room has free."""
    return [
        Resources(cores=one.cores, memory_mb=one.memory_mb, disk_mb=one.disk_mb, gpus=one.gpus)
        for one in room.groups for _ in range(one.nodes)
    ]  # fmt: skip


def places(free, asked):
    """Whether jobs can start together on nodes with so much free, by trying everything."""
    return placed(tuple(sorted(free, key=msgspec.structs.astuple)), tuple(asked))


@cache
def placed(free, asked):
    """The same; nodes are alike in whatever order, so few cases are tried twice."""
    if not asked:
        return True
    shape, *others = asked
    fitting = [nr for nr, one in enumerate(free) if shape.within(one)]
    return any(
        places([one.less(shape) if nr in chosen else one for nr, one in enumerate(free)], others)
        for chosen in map(set, itertools.combinations(fitting, shape.nodes))
    )


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
        (
            Room(),
            b'{"cores":1,"memory_mb":0,"disk_mb":0,%b,"nodes":1,"seconds_left":null}' % NO_GPU,
        ),
        (
            Shape(),
            b'{"cores":1,"memory_mb":2000,"disk_mb":0,%b,"nodes":1,"walltime_s":0,"machine":""}'
            % NO_GPU,
        ),
    ],
)
def test_json_is_flat_and_in_the_order_of_versions_before(value, text):
    assert msgspec.json.encode(value) == text
    assert msgspec.json.decode(b"{}", type=type(value)) == value


@given(many_nodes, small_shapes)
def test_a_room_of_several_nodes_holds_as_many_jobs_as_can_be_placed(free, shape):
    room, most = room_of(free), 0
    while places(free, [shape] * (most + 1)):
        most += 1
    assert room.capacity(shape) == most
    assert shape.fits(room) == (most > 0)


@given(many_nodes, small_shapes, st.integers(1, 4))
def test_what_has_started_is_gone_from_so_many_nodes(free, shape, jobs):
    room = room_of(free)
    jobs = min(jobs, room.capacity(shape))
    assume(jobs)
    left = room.taking(shape, jobs)
    taken = shape.each.times(jobs * shape.nodes)
    together = left.together.plus(taken)
    assert together.cores == room.together.cores
    # What a node without a free core has beside it, is of no use.
    assert together.within(room.together)
    assert left.capacity(shape) <= room.capacity(shape) - jobs


@given(many_nodes, st.lists(small_shapes, max_size=4))
def test_jobs_of_one_answer_can_be_placed_together(free, asked):
    room, given_out = room_of(free), []
    for shape in asked:
        if shape.fits(room):
            given_out.append(shape)
            room = room.taking(shape)
    assert places(free, given_out)


@given(many_nodes, st.lists(small_shapes, max_size=4))
def test_who_knows_only_the_first_group_never_overfills_it(free, asked):
    class Old(Resources, frozen=True, kw_only=True):
        """As versions before knew it."""

        cores: int = 1
        nodes: int = 1
        seconds_left: float | None = None

    room = msgspec.json.decode(msgspec.json.encode(room_of(free)), type=Old)
    given_out = []
    for shape in asked:
        if shape.within(room) and shape.nodes <= room.nodes:
            given_out.append(shape)
            room = room.less(shape)
    assert places(free, given_out)


@given(many_nodes)
def test_a_room_tells_all_nodes_that_have_a_free_core(free):
    room = msgspec.json.decode(msgspec.json.encode(room_of(free, 5.0)), type=Room)
    assert sorted(listed(room), key=str) == sorted(free, key=str)
    assert room.seconds_left == 5.0
    together = Resources()
    for one in free:
        together = together.plus(one)
    assert room.together == together


def test_for_a_wide_job_that_does_not_fit_what_is_there_is_kept():
    room = room_of([Resources(cores=2), Resources(cores=3), Resources(cores=1)])
    assert room.taking(Shape(cores=4, memory_mb=0, nodes=2)) == Room()


def test_a_narrow_job_takes_the_tightest_node_and_a_wide_one_the_emptiest():
    room = room_of([Resources(cores=2), Resources(cores=4), Resources(cores=4)])
    assert listed(room.taking(Shape(cores=1, memory_mb=0))) == [
        Resources(cores=4), Resources(cores=4), Resources(cores=1),
    ]  # fmt: skip
    assert listed(room.taking(Shape(cores=1, memory_mb=0, nodes=2))) == [
        Resources(cores=3), Resources(cores=3), Resources(cores=2),
    ]  # fmt: skip


def test_the_answer_does_not_depend_on_the_number_of_nodes():
    room = Room(cores=64, memory_mb=10**6, nodes=100_000)
    assert room.capacity(Shape(memory_mb=1)) == 6_400_000
    assert room.capacity(Shape(cores=32, memory_mb=1, nodes=50_000)) == 4
    assert room.taking(Shape(memory_mb=1), 6_400_000).cores == 0


def test_groups_stand_behind_what_versions_before_know():
    room = room_of([Resources(cores=4), Resources(cores=4), Resources(cores=1)])
    assert msgspec.json.encode(room) == (
        b'{"cores":4,"memory_mb":0,"disk_mb":0,%b,"nodes":2,"seconds_left":null,'
        b'"more":[{"cores":1,"memory_mb":0,"disk_mb":0,%b,"nodes":1}]}' % (NO_GPU, NO_GPU)
    )
    assert room.more == (Group(cores=1, nodes=1),)


def test_a_room_has_no_more_nodes_than_can_be_told() -> None:
    """Groups become equal, and one, when jobs take of them."""
    few, many = Group(cores=3, nodes=400_000), Group(cores=3, nodes=600_000)
    room = Room(cores=4, nodes=400_000, more=(few,))
    assert msgspec.convert(msgspec.to_builtins(room), Room) == room
    told = msgspec.to_builtins(room) | {"more": [msgspec.to_builtins(one) for one in (few, many)]}
    with pytest.raises(msgspec.ValidationError, match="1000000 nodes"):
        msgspec.convert(told, Room)
