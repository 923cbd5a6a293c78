"""One parser under atheris: `python -m benchmarks.parsers_child NAME CORPUS -runs=N …` (libFuzzer's
options).

An error that its callers do not know ends the process with a trace.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path


def main() -> None:
    """Give the parser what libFuzzer finds."""
    sys.path.append(os.environ["ATHERIS"])
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]  # only scripts/setup --bench has it

    with atheris.instrument_imports(include=["ailurus", "dispatcher", "harvester_edge", "plugins"]):
        from benchmarks.parsers_cases import CASES

    case, corpus = CASES[sys.argv[1]], Path(sys.argv[2])
    for nr, text in enumerate(case.seeds()):
        (corpus / f"seed{nr}").write_text(text)

    def once(data: bytes) -> None:
        with suppress(*case.refusals):
            case.parse(data.decode("utf-8", "replace"))

    atheris.Setup([sys.argv[0], *sys.argv[2:]], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
