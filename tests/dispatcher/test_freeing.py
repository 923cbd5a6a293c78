"""Many objects are freed in parts, between which others are served."""

from __future__ import annotations

import asyncio

from dispatcher.freeing import AT_ONCE, free_in_parts


def test_a_long_list_is_emptied_with_a_turn_for_others_between_two_parts():
    objects: list[object] = [object() for _ in range(4 * AT_ONCE)]

    async def lengths_seen() -> list[int]:
        freeing = asyncio.create_task(free_in_parts(objects))
        seen = []
        while not freeing.done():
            seen.append(len(objects))
            await asyncio.sleep(0)
        return seen

    assert asyncio.run(lengths_seen()) == [4 * AT_ONCE, 3 * AT_ONCE, 2 * AT_ONCE, AT_ONCE]
    assert objects == []
