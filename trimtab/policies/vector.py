"""Vectors: differences of weights that are added to a model in any strength, and linear combinations of them.

A vector is what training changed, ``theta_aligned - theta_base``. It holds low-rank factors where it can, plain
differences elsewhere; nothing here reads or runs a model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trimtab.errors import KnobError
from trimtab.policies.knob import Exponent, Knob, Scalar

if TYPE_CHECKING:
    from trimtab.policies.lm import LM

_SAMPLE = 1024
"""Values of each tensor that tell one vector from another."""


@dataclass(frozen=True)
class LowRank:
    """A difference of the linear map of a layer, ``up @ down``, whichever way round the layer keeps its weight.

    Args:
        down: shape (r, in).
        up: shape (out, r), any scale included.
    """

    down: Tensor
    up: Tensor

    @property
    def rank(self) -> int:
        """r."""
        return self.down.shape[0]

    def dense(self) -> Tensor:
        """Multiply the factors out, float32, shape (out, in)."""
        return self.up.float() @ self.down.float()


@dataclass(frozen=True)
class Origin:
    """Where a vector comes from and what it stands for.

    Args:
        base: identity of the weights that were subtracted, see ``Trunk.identity``.
        source: where these weights were.
        domain: what it is about, for instance "medical"; may be empty.
        level: what it moves towards, for instance "expert"; may be empty.
        made: how it was made, in one line.
    """

    base: str
    source: str
    domain: str = ""
    level: str = ""
    made: str = ""


class Linear:
    """What vectors and their combinations have in common: they add up and can be scaled by numbers and knobs."""

    def terms(self) -> tuple[tuple[Vector, Exponent], ...]:
        """Return the vectors and their coefficients."""
        raise NotImplementedError

    def __add__(self, other: Linear) -> Combination:
        if not isinstance(other, Linear):
            return NotImplemented
        return Combination.of([*self.terms(), *other.terms()])

    def __sub__(self, other: Linear) -> Combination:
        if not isinstance(other, Linear):
            return NotImplemented
        return self + -1.0 * other

    def __neg__(self) -> Combination:
        return -1.0 * self

    def __mul__(self, coefficient: Scalar) -> Combination:
        if not isinstance(coefficient, int | float | Knob | Exponent):
            return NotImplemented
        outer = Exponent.of(coefficient)
        return Combination.of([(vector, inner * outer) for vector, inner in self.terms()])

    def __rmul__(self, coefficient: Scalar) -> Combination:
        return self * coefficient


@dataclass(frozen=True, eq=False)
class Vector(Linear):
    """A difference between two sets of weights of one architecture; equal where the numbers are.

    Args:
        low_rank: module name, such as "model.layers.0.self_attn.q_proj", to the factors of its weight's difference.
        dense: tensor name, such as "model.norm.weight", to its difference. Tensors may be read when asked for.
        origin: where it comes from.
        label: what messages and expressions call it.

    Example:
        >>> ones = LowRank(torch.ones(1, 2), torch.ones(2, 1))
        >>> polite = Vector({"lin": ones}, {}, Origin("base", "somewhere"), "polite")
        >>> str(0.5 * polite - Knob("less") * polite)
        '(0.5 - less) * polite'
    """

    low_rank: Mapping[str, LowRank]
    dense: Mapping[str, Tensor]
    origin: Origin
    label: str = "vector"

    @staticmethod
    def between(aligned: str | Path | LM, base: str | Path | LM, *, domain: str = "", level: str = "") -> Vector:
        """Return what training changed, ``theta_aligned - theta_base``; see ``trimtab.vectors.extract.between``.

        Example:
            >>> medical = Vector.between("runs/medical/guide", "smollm2-135m", domain="medical")  # doctest: +SKIP
        """
        from trimtab.vectors.extract import between

        return between(aligned, base, domain=domain, level=level)

    @staticmethod
    def load(folder: str | Path, *, label: str | None = None) -> Vector:
        """Load a vector folder or a LoRA adapter; see ``trimtab.policies.vector_folder.load_vector``."""
        from trimtab.policies.vector_folder import load_vector

        return load_vector(folder, label=label)

    def save(self, folder: str | Path) -> Path:
        """Write a vector folder; see ``trimtab.policies.vector_folder.save_vector``."""
        from trimtab.policies.vector_folder import save_vector

        return save_vector(self, folder)

    def terms(self) -> tuple[tuple[Vector, Exponent], ...]:
        """Return itself, once."""
        return ((self, Exponent.of(1.0)),)

    @cached_property
    def digest(self) -> str:
        """Name it by its content: what is computed with one vector is never taken for another's."""
        digest = hashlib.sha256(self.origin.base.encode())
        for name, tensor in self._named():
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            flat = tensor.detach().reshape(-1)
            sample = flat[:: max(1, flat.numel() // _SAMPLE)].to("cpu", torch.float32)
            digest.update(sample.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        for name, factors in sorted(self.low_rank.items()):
            yield f"{name}.down", factors.down
            yield f"{name}.up", factors.up
        for name in sorted(self.dense):
            yield name, self.dense[name]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vector) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class Combination(Linear):
    """A linear combination of vectors, whose coefficients may hold knobs; build it with ``+``, ``-`` and ``*``.

    Args:
        parts: each vector once, with its coefficient, in canonical order, none that is exactly 0.
    """

    parts: tuple[tuple[Vector, Exponent], ...] = field(default=())

    @staticmethod
    def of(terms: list[tuple[Vector, Exponent]]) -> Combination:
        """Add coefficients of equal vectors and leave out those that cancel.

        Raises:
            KnobError: coefficients overflow.
        """
        sums: dict[Vector, Exponent] = {}
        for vector, coefficient in terms:
            sums[vector] = sums.get(vector, Exponent.of(0.0)) + coefficient
        kept = [(vector, coefficient) for vector, coefficient in sums.items() if coefficient.terms]
        return Combination(tuple(sorted(kept, key=lambda part: part[0].digest)))

    def terms(self) -> tuple[tuple[Vector, Exponent], ...]:
        """Return its parts."""
        return self.parts

    def coefficients(self) -> dict[Vector, float]:
        """Return the coefficients as numbers.

        Raises:
            KnobError: one of them holds a knob.
        """
        found = {vector: coefficient.constant for vector, coefficient in self.parts}
        for vector, coefficient in self.parts:
            if coefficient.constant is None:
                raise KnobError(
                    given=f"the coefficient {coefficient} of {vector}, which holds a knob",
                    expected="a number",
                    hint="bind the knob, or compress the vector to low rank: then every row may have its own value",
                )
        return {vector: value for vector, value in found.items() if value is not None}

    def added_to(self, label: str) -> str:
        """Write the sum of a model and these vectors."""
        if not self.parts:
            return label
        added = str(self)
        return f"({label} - {added[1:]})" if added.startswith("-") else f"({label} + {added})"

    def __str__(self) -> str:
        text = ""
        for vector, coefficient in self.parts:
            constant = coefficient.constant
            minus = constant is not None and constant < 0
            shown = -coefficient if minus else coefficient
            simple = len(shown.terms) == 1
            factor = "" if shown.constant == 1.0 else f"{shown} * " if simple else f"({shown}) * "
            text += (" - " if minus else " + ") + factor + str(vector)
        return f"-{text[3:]}" if text.startswith(" - ") else text.removeprefix(" + ") or "0"
