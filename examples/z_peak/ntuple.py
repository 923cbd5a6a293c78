"""Make an ntuple (layout: dimuons.py) of recorded Z → μ⁺μ⁻ candidates.

    ntuple.py --input uproot-Zmumu.root --out data.root

The input has several rows an event: a pair of muons is listed once for every way in which the two
were reconstructed, so that counting rows would count events up to 26 times and make any uncertainty
too small. Here an event counts once:

1. both muons are global, that is, seen by tracker and muon chambers together (`Type` is GG);
2. they have opposite charge;
3. of several such pairs in one event, the one with the greatest pt1 + pt2 is taken: a choice that
   does not look at the mass, and so cannot make a peak.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from dimuons import Array, chunks, dimuons, writing

COLUMNS = ["Type", "Run", "Event"] + [
    f"{c}{side}" for side in (1, 2) for c in ("px", "py", "pz", "Q")
]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--input", type=Path, required=True, help="recorded data, a ROOT file")
    parser.add_argument("--out", type=Path, required=True, help="the ROOT file to write")
    args = parser.parse_args()

    rows = read(args.input)
    chosen, counts = select(rows)
    if not len(chosen):
        raise SystemExit(f"error: {args.input}: no event passes the selection: {counts}")
    with writing(args.out) as file:
        file.add_events(events(rows, chosen))
    for cut, count in counts.items():
        print(f"{cut:<24}{count:>8}")
    print(json.dumps({"rows": counts["rows"], "events": len(chosen)}))


def read(path: Path) -> dict[str, Array]:
    pieces = list(chunks(path, "events", COLUMNS))
    if not pieces:
        raise SystemExit(f"error: {path}: holds no events")
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in COLUMNS}


def select(rows: dict[str, Array]) -> tuple[Array, dict[str, int]]:
    """Which rows to keep, one an event, in order of run and event; and how many passed each cut."""
    is_global = rows["Type"] == "GG"
    is_neutral = is_global & (rows["Q1"] * rows["Q2"] < 0)
    pt_sum = np.hypot(rows["px1"], rows["py1"]) + np.hypot(rows["px2"], rows["py2"])
    pairs = np.flatnonzero(is_neutral)
    pairs = pairs[np.lexsort((-pt_sum[pairs], rows["Event"][pairs], rows["Run"][pairs]))]
    ids = np.stack([rows["Run"][pairs], rows["Event"][pairs]], axis=1)
    is_first = np.ones(len(pairs), bool)
    is_first[1:] = (ids[1:] != ids[:-1]).any(axis=1)
    counts = {
        "rows": len(is_global),
        "two global muons": int(is_global.sum()),
        "opposite charge": len(pairs),
        "one pair an event": int(is_first.sum()),
    }
    return pairs[is_first], counts


def events(rows: dict[str, Array], chosen: Array) -> dict[str, Array]:
    """The columns of the ntuple, from px, py and pz: these agree with the mass in the input.

    Its pt, eta and phi are of another fit of the tracks, and differ by up to some per cent.
    """
    px, py, pz, charge = (
        np.stack([rows[f"{name}1"][chosen], rows[f"{name}2"][chosen]], axis=1)
        for name in ("px", "py", "pz", "Q")
    )
    pt = np.hypot(px, py)
    return dimuons(pt, np.arcsinh(pz / pt), np.arctan2(py, px), charge, np.ones(len(chosen)))


if __name__ == "__main__":
    main()
