"""Forms are read as the standard library reads them."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.panda import bodies

FORMS = st.text("ab=&+%2fé\n;", max_size=30)


@given(FORMS)
def test_a_form_is_what_parse_qsl_says(text):
    expected: dict[str, object] = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        known = expected.get(name)
        both = [*known, value] if isinstance(known, list) else [known, value]
        expected[name] = value if known is None else both
    assert bodies.form(text.encode(), most=None) == expected


@pytest.mark.parametrize(("fields", "fits"), [(3, True), (4, False)])
def test_a_form_with_too_many_fields_is_refused_in_the_same_words(fields, fits):
    data = b"&".join([b"a=1"] * fields)
    if fits:
        assert bodies.form(data, most=3) == {"a": ["1"] * fields}
        return
    with pytest.raises(ValueError, match="Max number") as theirs:
        parse_qsl(data.decode(), max_num_fields=3)
    with pytest.raises(bodies.BadBody, match=str(theirs.value)):
        bodies.form(data, most=3)
