"""Knobs and the polynomials of exponents."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trimtab.errors import KnobError
from trimtab.policies.knob import MAX_DEGREE, MAX_TERMS, Exponent, Knob, bind, declared_knobs, number_text

W, V = Knob("w"), Knob("v")
numbers = st.floats(-100, 100)


@given(numbers, numbers, numbers)
def test_arithmetic_agrees_with_arithmetic_on_values(number, w, v):
    values = {"w": torch.tensor([w], dtype=torch.float64), "v": torch.tensor([v], dtype=torch.float64)}
    exponent = number * (1 - W) * (V + 2) - -V * W + (W - 3)
    expected = number * (1 - w) * (v + 2) + v * w + (w - 3)
    assert torch.as_tensor(exponent.values(values)).item() == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_equal_polynomials_are_equal():
    assert (1 - W) * (1 + W) == 1 - W * W
    assert W * V == V * W
    assert Exponent.of(W) == W + V - V
    assert Exponent.of(0.0) == W - W
    assert hash(2 * W) == hash(W + W)


def test_constants_and_zeros():
    assert Exponent.of(1.5).constant == 1.5
    assert (W - W + 2).constant == 2.0
    assert (1 - W).constant is None
    assert (1 - W).is_zero({"w": torch.tensor([1.0, 1.0])})
    assert not (1 - W).is_zero({"w": torch.tensor([1.0, 0.5])})
    assert Exponent.of(-0.0).is_zero({})


@pytest.mark.parametrize(
    ("exponent", "text"),
    [
        (Exponent.of(0), "0"),
        (Exponent.of(-2), "-2"),
        (Exponent.of(0.1), "0.1"),
        (-W, "-w"),
        (1 - W, "1 - w"),
        (2 * W * V - 0.5, "-0.5 + 2 * v * w"),
        (W * W, "w * w"),
    ],
)
def test_text(exponent, text):
    assert str(exponent) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_read_back_as_they_were(value):
    assert float(number_text(value)) == value


@pytest.mark.parametrize("name", ["", "two words", "1st", "a-b"])
def test_names_that_cannot_be_written(name):
    with pytest.raises(KnobError, match="knob name"):
        Knob(name)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Knob("w", 2.0, max=1.0),
        lambda: Knob("w", 1.0, min=3.0, max=0.0),
        lambda: Knob("w", math.nan),
        lambda: Knob("w", math.inf),
    ],
)
def test_defaults_outside_the_range(build):
    with pytest.raises(KnobError, match="finite number from"):
        build()


@pytest.mark.parametrize("value", [math.nan, math.inf, "1", True, None])
def test_what_is_no_exponent(value):
    with pytest.raises(KnobError):
        Exponent.of(value)


def test_exponents_that_grow_without_end_are_refused():
    product = Exponent.of(1.0)
    with pytest.raises(KnobError, match="terms"):
        for i in range(10):  # (1 + k0) (1 + k1) ... has 2^10 terms
            product = product * (1 + Knob(f"k{i}"))
    assert len(product.terms) <= MAX_TERMS
    power = Exponent.of(1.0)
    with pytest.raises(KnobError, match="knobs"):
        for _ in range(MAX_DEGREE + 1):
            power = power * W
    with pytest.raises(KnobError, match="overflows"):
        Exponent.of(1e200) * 1e200 * W


def test_binding():
    knobs = (Knob("w", 1.0, min=0.0, max=2.0), Knob("v", 0.5))
    bound = bind(knobs, [{}, {"w": 2}, {"v": -1.0}])
    assert bound["w"].tolist() == [1.0, 2.0, 1.0]
    assert bound["v"].tolist() == [0.5, 0.5, -1.0]
    with pytest.raises(KnobError, match=r"w=2\.5"):
        bind(knobs, [{}, {"w": 2.5}])
    with pytest.raises(KnobError, match="'u'"):
        bind(knobs, [{"u": 1.0}])


def test_one_name_is_one_knob():
    assert declared_knobs([W, V, Knob("w")]) == (V, W)
    with pytest.raises(KnobError, match="two different knobs named 'w'"):
        declared_knobs([W, Knob("w", 2.0)])
