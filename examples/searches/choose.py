#!/usr/bin/env python3
"""Which points are worth a simulation: choose.py POINTS NEXT WANTED.

Those in the middle of where the response rises most; none once it is known everywhere to a fifth.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

ENOUGH = 0.2


def choose(points: list, wanted: int) -> list:
    known = sorted((point["x"], loss) for point, loss in points if loss is not None)
    gaps = [(abs(y1 - y0), (x0 + x1) / 2) for (x0, y0), (x1, y1) in pairwise(known)]
    worth = sorted((gap for gap in gaps if gap[0] > ENOUGH), reverse=True)
    return [{"x": x} for _, x in worth[:wanted]]


if __name__ == "__main__":
    read, write, wanted = sys.argv[1:]
    points = json.loads(Path(read).read_text("utf-8"))["points"]
    Path(write).write_text(json.dumps(choose(points, int(wanted))), "utf-8")
