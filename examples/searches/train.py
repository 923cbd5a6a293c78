#!/usr/bin/env python3
"""Trains on points of a parabola, and leaves the loss on others: train.py RATE MOMENTUM MODEL."""

import json
import sys
from pathlib import Path

EPOCHS = 200
WORST = 1e6
KNOWN = [(nr / 10, (nr / 10) ** 2 - 0.5) for nr in range(-10, 11)]
HELD_OUT = [(x + 0.05, (x + 0.05) ** 2 - 0.5) for x, _ in KNOWN[:-1]]


def terms(model: str, x: float) -> list[float]:
    return [1.0, x, x * x] if model == "parabola" else [1.0, x]


def miss(model: str, weights: list[float], x: float, y: float) -> float:
    return sum(w * term for w, term in zip(weights, terms(model, x), strict=True)) - y


def train(rate: float, momentum: float, model: str) -> float:
    """The mean square error on the points held out."""
    weights = [0.0 for _ in terms(model, 0.0)]
    speed = list(weights)
    for _ in range(EPOCHS):
        slope = [0.0 for _ in weights]
        for x, y in KNOWN:
            error = miss(model, weights, x, y)
            slope = [s + error * term for s, term in zip(slope, terms(model, x), strict=True)]
        speed = [momentum * v - rate * s / len(KNOWN) for v, s in zip(speed, slope, strict=True)]
        weights = [w + v for w, v in zip(weights, speed, strict=True)]
        if max(map(abs, weights)) > WORST:
            return WORST
    return sum(miss(model, weights, x, y) ** 2 for x, y in HELD_OUT) / len(HELD_OUT)


if __name__ == "__main__":
    loss = train(float(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
    Path("result.json").write_text(json.dumps({"loss": loss}), "utf-8")
