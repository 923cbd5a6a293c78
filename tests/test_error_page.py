"""docs/errors.md has the codes that we give, in their words, and what helps."""

from __future__ import annotations

import re
from pathlib import Path

from ailurus.protocol.errors import Code

PAGE = Path(__file__).parents[1] / "docs/errors.md"


def test_the_page_of_errors_has_every_code_with_its_words_and_a_remedy():
    rows = re.findall(r"^\| (\d+) \| (.+?) \| (yes|no) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert [(int(number), text, again == "yes") for number, text, again, _ in rows] == [
        (int(code), code.text, code.transient) for code in sorted(Code) if code
    ]
    assert all(len(remedy) > 5 for *_, remedy in rows)
