"""Exponents and the knobs in them.

An exponent is a polynomial in named knobs, so ``1 - strength`` or ``strength * outer`` stay symbolic until a request
binds the knobs; each row may bind its own values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from trimtab.errors import KnobError

KnobValues: TypeAlias = Mapping[str, Tensor]
"""Knob name to the value of each row, shape (B,), float32."""


MAX_TERMS = 64
"""Most terms of an exponent: products of sums grow exponentially, and expressions may come from strangers."""

MAX_DEGREE = 16
"""Most knobs multiplied in one term of an exponent."""


class _Arithmetic:
    """Arithmetic shared by knobs and exponents; every result is an Exponent."""

    def __add__(self, other: Scalar) -> Exponent:
        return Exponent.of(self)._plus(Exponent.of(other))  # type: ignore[arg-type]

    def __radd__(self, other: float) -> Exponent:
        return self + other

    def __neg__(self) -> Exponent:
        return self * -1.0

    def __sub__(self, other: Scalar) -> Exponent:
        return self + Exponent.of(other) * -1.0

    def __rsub__(self, other: float) -> Exponent:
        return -self + other

    def __mul__(self, other: Scalar) -> Exponent:
        if not isinstance(other, int | float | _Arithmetic):
            return NotImplemented  # a vector knows how to be scaled
        return Exponent.of(self)._times(Exponent.of(other))  # type: ignore[arg-type]

    def __rmul__(self, other: float) -> Exponent:
        return self * other


@dataclass(frozen=True)
class Knob(_Arithmetic):
    """A named exponent with a default and a range, bound per request.

    Args:
        name: what requests call it.
        default: the value of requests that do not bind it.
        min: smallest value allowed.
        max: largest value allowed.

    Raises:
        KnobError: the default is not finite or lies outside the range, or the range is empty.

    Example:
        >>> Knob("strength", 1.0, min=0.0, max=3.0).check(1.5)
        1.5
    """

    name: str
    default: float = 1.0
    min: float = -math.inf
    max: float = math.inf

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise KnobError(given=f"the knob name {self.name!r}", expected="letters, digits and _", hint="rename it")
        self.check(self.default)

    def check(self, value: float) -> float:
        """Return the value if it may be bound.

        Raises:
            KnobError: the value is not finite or lies outside the range.
        """
        if not math.isfinite(value) or not self.min <= value <= self.max:
            raise KnobError(
                given=f"{self.name}={value}",
                expected=f"a finite number from {self.min} to {self.max}",
                hint="bind a value in the range, or declare the knob with a wider one",
            )
        return value

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Exponent(_Arithmetic):
    """A polynomial in knobs: the sum over terms of coefficient times the product of the term's knobs.

    Args:
        terms: (knobs of the term in name order, coefficient), coefficients non-zero, in canonical order.

    Example:
        >>> strength = Knob("strength")
        >>> str(2 * (1 - strength)), (strength - strength).terms
        ('2 - 2 * strength', ())
    """

    terms: tuple[tuple[tuple[Knob, ...], float], ...]

    @staticmethod
    def of(value: Scalar) -> Exponent:
        """Turn a number, a knob or an exponent into an exponent.

        Raises:
            KnobError: the number is not finite.
        """
        if isinstance(value, Exponent):
            return value
        if isinstance(value, Knob):
            return Exponent((((value,), 1.0),))
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise KnobError(
                given=f"the exponent {value!r}", expected="a finite number or a Knob", hint="write policy ** 1.5"
            )
        return Exponent((((), float(value)),) if value else ())

    @property
    def knobs(self) -> frozenset[Knob]:
        """Return the knobs it depends on."""
        return frozenset(knob for knobs, _ in self.terms for knob in knobs)

    @property
    def constant(self) -> float | None:
        """Return its value when no knob is in it, else None."""
        return None if self.knobs else sum(coefficient for _, coefficient in self.terms)

    def values(self, knobs: KnobValues) -> Tensor | float:
        """Evaluate it: a number when constant, else one value a row, shape (B,)."""
        if self.constant is not None:
            return self.constant
        total: Tensor | float = 0.0
        for names, coefficient in self.terms:
            term: Tensor | float = coefficient
            for knob in names:
                term = term * knobs[knob.name]
            total = total + term
        return total

    def is_zero(self, knobs: KnobValues) -> bool:
        """Return whether it is exactly 0 in every row."""
        return not torch.as_tensor(self.values(knobs)).any()

    def _plus(self, other: Exponent) -> Exponent:
        sums: dict[tuple[Knob, ...], float] = {}
        for names, coefficient in (*self.terms, *other.terms):
            sums[names] = sums.get(names, 0.0) + coefficient
        return _canonical(sums)

    def _times(self, other: Exponent) -> Exponent:
        sums: dict[tuple[Knob, ...], float] = {}
        for left, a in self.terms:
            for right, b in other.terms:
                names = tuple(sorted((*left, *right), key=lambda knob: knob.name))
                sums[names] = sums.get(names, 0.0) + a * b
        return _canonical(sums)

    def __str__(self) -> str:
        text = ""
        for knobs, coefficient in self.terms:
            names = [knob.name for knob in knobs]
            factors = names if names and abs(coefficient) == 1.0 else [number_text(abs(coefficient)), *names]
            text += (" - " if coefficient < 0 else " + ") + " * ".join(factors)
        if text.startswith(" - "):
            return "-" + text.removeprefix(" - ")
        return text.removeprefix(" + ") or "0"


Scalar: TypeAlias = float | Knob | Exponent


def number_text(value: float) -> str:
    """Write a number so that reading it gives the same number: 2.0 as "2", 0.1 as "0.1"."""
    return repr(float(value)).removesuffix(".0")


def _canonical(sums: dict[tuple[Knob, ...], float]) -> Exponent:
    """Drop zero terms and put the others in one order, so that equal polynomials compare equal."""
    terms = [(knobs, coefficient) for knobs, coefficient in sums.items() if coefficient]
    if len(terms) > MAX_TERMS or any(len(knobs) > MAX_DEGREE for knobs, _ in terms):
        raise KnobError(
            given=f"an exponent of {len(terms)} terms with up to {max(len(knobs) for knobs, _ in terms)} knobs each",
            expected=f"at most {MAX_TERMS} terms of at most {MAX_DEGREE} knobs",
            hint="multiply fewer sums of knobs, or use one knob in their place",
        )
    if not all(math.isfinite(coefficient) for _, coefficient in terms):
        raise KnobError(
            given="an exponent that overflows when multiplied out",
            expected="finite coefficients",
            hint="use smaller numbers",
        )
    return Exponent(tuple(sorted(terms, key=lambda term: [knob.name for knob in term[0]])))


def declared_knobs(knobs: Iterable[Knob]) -> tuple[Knob, ...]:
    """Collect knobs, each once, in name order.

    Raises:
        KnobError: one name stands for two different knobs.
    """
    found: dict[str, Knob] = {}
    for knob in knobs:
        if found.setdefault(knob.name, knob) != knob:
            raise KnobError(
                given=f"two different knobs named {knob.name!r}: {found[knob.name]!r} and {knob!r}",
                expected="one default and range for a name",
                hint="rename one of them, or use the same Knob object twice",
            )
    return tuple(found[name] for name in sorted(found))


def bind(knobs: Sequence[Knob], settings: Sequence[Mapping[str, float]]) -> dict[str, Tensor]:
    """Bind every knob for every row.

    Args:
        knobs: the knobs a policy declares.
        settings: for each of B rows, the values of the knobs that differ from their defaults.

    Returns:
        Knob name to values of shape (B,).

    Raises:
        KnobError: a row names a knob the policy does not have, or a value outside its range.
    """
    names = {knob.name for knob in knobs}
    for row in settings:
        for name in row:
            if name not in names:
                raise KnobError(
                    given=f"a value for the knob {name!r}",
                    expected=f"one of {sorted(names)}" if names else "no knobs: this policy has none",
                    hint="declare it with Knob, or under knobs: in the policy file",
                )
    return {
        knob.name: torch.tensor([knob.check(float(row.get(knob.name, knob.default))) for row in settings])
        for knob in knobs
    }
