"""Content by a JSON Schema and by chance: mostly right, sometimes wrong in one place."""

from __future__ import annotations

import random
from typing import Any

EDGES: list[Any] = [
    0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 1.5, 1e308, True, None, "", "\x00", "x" * 300,
    "'; drop table job;--", "../../etc/passwd", "<script>", "\u202e", "\ud7ff", [], {}, [[]], "1", "nan",
]  # fmt: skip
IDS = 30  # numbers up to here are tried as ids: some of them are


class RandomContent:
    """One seed, one sequence of contents."""

    def __init__(self, schemas: dict[str, Any], seed: int, wrong: float) -> None:
        self._schemas = schemas
        self.chance, self.wrong = random.Random(seed), wrong

    def of(self, schema: dict[str, Any], depth: int = 0) -> Any:
        """Something for a schema; anything at all, `wrong` of the time."""
        if self.chance.random() < self.wrong:
            return self.chance.choice(EDGES)
        if "$ref" in schema:
            return self.of(self._schemas[schema["$ref"].rpartition("/")[2]], depth)
        if "anyOf" in schema:
            return self.of(self.chance.choice(schema["anyOf"]), depth)
        if "enum" in schema:
            return self.chance.choice(schema["enum"])
        return getattr(self, f"_{schema.get('type', 'null')}")(schema, depth)

    def _object(self, schema: dict[str, Any], depth: int) -> Any:
        required = schema.get("required", [])
        return {
            name: self.of(one, depth + 1)
            for name, one in schema.get("properties", {}).items()
            if name in required or self.chance.random() < 0.5 / (1 + depth)
        }

    def _array(self, schema: dict[str, Any], depth: int) -> Any:
        count = max(schema.get("minItems", 0), self.chance.randint(0, 2))
        return [self.of(schema.get("items", {}), depth + 1) for _ in range(count)]

    def _integer(self, schema: dict[str, Any], depth: int) -> int:
        low, high = schema.get("minimum", 0), schema.get("maximum", 2**63 - 1)
        near = self.chance.randint(low, max(low, min(high, low + IDS)))
        return int(self.chance.choice([low, high, max(low, 1), near, near, near]))

    def _number(self, schema: dict[str, Any], depth: int) -> float:
        low, high = schema.get("minimum", -1e300), schema.get("maximum", 1e300)
        return float(min(high, max(low, self.chance.choice([0.0, 1.0, low, high]))))

    def _string(self, schema: dict[str, Any], depth: int) -> str:
        return self.chance.choice(
            ["a", "stdout", "true", "b.1", "'\"%;", "\x00"][: 4 if "pattern" in schema else 6]
        )

    def _boolean(self, schema: dict[str, Any], depth: int) -> bool:
        return self.chance.random() < 0.5

    def _null(self, schema: dict[str, Any], depth: int) -> None:
        return None


def impatient(ask: type, content: Any) -> Any:
    """The same without waiting: nobody has a minute for each."""
    waits = {"wait_s", "timeout_s"} & set(ask.__struct_fields__)  # type: ignore[attr-defined]
    return {**content, **dict.fromkeys(waits, 0)} if isinstance(content, dict) else content
