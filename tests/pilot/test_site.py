"""What a pilot reads in its site file."""

from __future__ import annotations

import pytest

from pilot.site import Limits, bounds_of


@pytest.mark.parametrize(
    ("size", "number"),
    [(2000, 2000 << 20), ("2000", 2000 << 20), ("1K", 1024), ("2GiB", 2 << 30), ("0", 0)],
)
def test_a_plain_number_is_mb_in_every_limit(size, number):
    bounds = bounds_of(Limits(stdout=size, output=size, inputs=size))
    assert (bounds.stdout_bytes, bounds.output_bytes, bounds.inputs_bytes) == (number,) * 3
