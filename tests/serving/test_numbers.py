"""Numbers of JSON: none is infinite."""

import json
import math

from hypothesis import given
from hypothesis import strategies as st

from trimtab.serving.numbers import IMPOSSIBLE, finite, told

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
)


@given(PLAIN)
def test_whatever_comes_out_can_be_written_and_read(value):
    json.loads(json.dumps(finite(value), allow_nan=False))


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_finite_numbers_stay_what_they_are(number):
    assert finite({"a": [number]}) == {"a": [number]} and told(number) == number


def test_impossible_tokens_have_a_number_in_openais_fields():
    assert told(-math.inf) == told(math.nan) == IMPOSSIBLE
