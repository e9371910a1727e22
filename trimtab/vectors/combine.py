"""One vector of several: weighted sums, TIES, DARE, and spherical interpolation. All are computed when they are used.

Weighted sums and interpolation keep the low-rank form; what looks at single values, as TIES and DARE do, cannot.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import torch
from peft.utils.merge_utils import calculate_majority_sign_mask, disjoint_merge
from torch import Tensor

from trimtab.errors import ConfigError, ModelError
from trimtab.policies.lazy import LazyTensors
from trimtab.policies.vector import Combination, Linear, LowRank, Origin, Vector
from trimtab.vectors.whole import whole

Part = tuple[Vector, float]
"""A vector and its coefficient."""


def realise(combination: Linear) -> Vector:
    """Turn a linear combination into one vector, exactly.

    ``sum_i c_i B_i A_i = [c_1 B_1, c_2 B_2, ...] [A_1; A_2; ...]``: ranks add up, and compressing brings them down
    again. Plain differences are added up.

    Args:
        combination: of vectors of one base, with coefficients that are numbers.

    Raises:
        KnobError: a coefficient holds a knob.
        ModelError: the vectors are of different bases, or nothing is left.

    Example:
        >>> a = Vector({"lin": LowRank(torch.ones(1, 2), torch.ones(2, 1))}, {}, Origin("base", "somewhere"), "a")
        >>> b = Vector({"lin": LowRank(torch.eye(2), torch.eye(2))}, {}, Origin("base", "somewhere"), "b")
        >>> one = realise(0.5 * a - b)
        >>> one.low_rank["lin"].rank, one.low_rank["lin"].dense().tolist()
        (3, [[-0.5, 0.5], [0.5, -0.5]])

    Reference: Ilharco et al. (2023), Editing Models with Task Arithmetic; PEFT's ``add_weighted_adapter`` with ``cat``.
    """
    parts = _parts(combination)
    low_rank = {}
    for module in sorted({module for vector, _ in parts for module in vector.low_rank}):
        own = [(vector.low_rank[module], amount) for vector, amount in parts if module in vector.low_rank]
        down = torch.cat([factors.down for factors, _ in own])
        low_rank[module] = LowRank(down, torch.cat([amount * factors.up for factors, amount in own], 1))

    def added(name: str) -> Tensor:
        return reduce(torch.add, (amount * vector.dense[name] for vector, amount in parts if name in vector.dense))

    names = tuple(sorted({name for vector, _ in parts for name in vector.dense}))
    return Vector(low_rank, LazyTensors(names, added), _origin(parts, str(_combination(combination))), "sum")


def ties(combination: Linear, *, density: float = 0.2) -> Vector:
    """Trim, elect signs, and merge: keep each vector's largest values, and of these what the larger sign agrees on.

    Each vector is trimmed to the ``density`` of its values that are largest in magnitude, over all its tensors. For
    each value the sign of the sum over vectors is elected, and the mean is taken over the vectors that have it:
    ``m_p = sum_{i in A_p} w_i v_ip / |A_p|``. The paper's own merge has coefficients 1 and scales the result.

    Args:
        combination: of vectors of one base. The sign of a coefficient belongs to the vector, so that a subtracted one
            votes for the other sign; its size weighs the vector after the signs are elected, not before.
        density: share of the values that is kept, above 0 and at most 1.

    Raises:
        ConfigError: the density is out of its range.
        KnobError: a coefficient holds a knob.
        ModelError: the vectors are of different bases, or nothing is left.

    Example:
        >>> def vector(*values): return Vector({}, {"x": torch.tensor(values)}, Origin("base", "somewhere"))
        >>> merged = ties(vector(4.0, -1.0, 0.1) + vector(2.0, 3.0, 0.2), density=0.7)
        >>> merged.dense["x"].tolist()  # the mean of 4 and 2; 3 outvotes -1; the smallest are trimmed
        [3.0, 3.0, 0.0]

    Reference: Yadav et al. (2023), TIES-Merging; signs that cancel exactly are elected positive, and tensors that
    training did not change do not count for the density. Signs and means are PEFT's.
    """
    _check_density(density)
    parts = _parts(combination)
    wholes = [whole(vector) for vector, _ in parts]
    limits = [_threshold(whole, density) for whole in wholes]

    def merged(name: str) -> Tensor:
        present = [
            (each[name], limit, amount)
            for each, limit, (_, amount) in zip(wholes, limits, parts, strict=True)
            if name in each
        ]
        trimmed = [math.copysign(1.0, amount) * each.where(each.abs() >= limit, 0.0) for each, limit, amount in present]
        stacked = torch.stack(trimmed)
        elected = calculate_majority_sign_mask(stacked)
        weights = torch.tensor([abs(amount) for *_, amount in present]).view(-1, *[1] * (stacked.dim() - 1))
        mean: Tensor = disjoint_merge(stacked * weights, elected)
        return mean

    return _merged(parts, wholes, merged, f"TIES at density {density:g} of {_combination(combination)}")


def dare(combination: Linear, *, density: float = 0.5, seed: int = 0) -> Vector:
    """Drop values at random and rescale the others: the sum stays the same in expectation.

    ``sum_i c_i m_i v_i / density`` with ``m_i ~ Bernoulli(density)``, independent for every value.

    Args:
        combination: of vectors of one base.
        density: share of the values that is kept, above 0 and at most 1; the paper drops ``1 - density``.
        seed: of what is dropped; it does not depend on the order of vectors or of tensors.

    Raises:
        ConfigError: the density is out of its range.
        KnobError: a coefficient holds a knob.
        ModelError: the vectors are of different bases, or nothing is left.

    Example:
        >>> vector = Vector({}, {"x": torch.ones(4)}, Origin("base", "somewhere"))
        >>> sorted(set(dare(1.0 * vector, density=0.5).dense["x"].tolist())) in ([0.0, 2.0], [0.0], [2.0])
        True

    Reference: Yu et al. (2024), Language Models are Super Mario. PEFT's ``dare_linear`` with a generator of its own.
    """
    _check_density(density)
    parts = _parts(combination)
    wholes = [whole(vector) for vector, _ in parts]

    def merged(name: str) -> Tensor:
        kept = []
        for each, (vector, amount) in zip(wholes, parts, strict=True):
            if name in each:
                difference = each[name]
                drawn = hashlib.sha256(f"{seed} {vector.digest} {name}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(drawn[:8], "little") >> 1)
                mask = torch.rand(difference.shape, generator=generator) < density
                kept.append((amount / density) * difference.where(mask, 0.0))
        return reduce(torch.add, kept)

    made = f"DARE at density {density:g}, seed {seed}, of {_combination(combination)}"
    return _merged(parts, wholes, merged, made)


def slerp(first: Vector, second: Vector, t: float) -> Combination:
    """Interpolate between two vectors along the arc between their directions.

    ``sin((1 - t) a) / sin(a) v_1 + sin(t a) / sin(a) v_2`` with the angle a between the two as a whole, all tensors
    together: a linear combination, so that low-rank vectors stay what they are.

    Args:
        first: at t = 0.
        second: at t = 1.
        t: where to.

    Raises:
        ConfigError: the vectors point in opposite directions, so that there is no one arc, or t is not finite.
        ModelError: one of them is all zero, or they are of different bases.

    Example:
        >>> def vector(*values): return Vector({}, {"x": torch.tensor(values)}, Origin("base", "somewhere"))
        >>> halfway = realise(slerp(vector(1.0, 0.0), vector(0.0, 1.0), 0.5)).dense["x"]
        >>> [round(value, 4) for value in halfway.tolist()]  # of length 1, as both are
        [0.7071, 0.7071]

    Reference: Shoemake (1985), Animating rotation with quaternion curves. Other tools turn each tensor on its own.
    """
    _one_base([(first, 1.0), (second, 1.0)])
    lengths = [math.sqrt(inner(each, each)) for each in (first, second)]
    if not all(lengths):
        raise ModelError(
            given=f"{first} and {second}, one of which is all zero",
            expected="two directions",
            hint="multiply the other one",
        )
    angle = math.acos(max(-1.0, min(1.0, inner(first, second) / (lengths[0] * lengths[1]))))
    if not math.isfinite(t) or math.pi - angle < 1e-4:
        raise ConfigError(
            given=f"t={t}, between vectors at {math.degrees(angle):.2f} degrees",
            expected="a number, and directions that are not opposite",
            hint="opposite directions have no one arc between them; add the vectors instead",
        )
    if angle < 1e-4:
        return (1 - t) * first + t * second
    return math.sin((1 - t) * angle) / math.sin(angle) * first + math.sin(t * angle) / math.sin(angle) * second


def inner(first: Vector, second: Vector) -> float:
    """Return the inner product of two vectors, over all tensors that both change.

    Example:
        >>> vector = Vector({}, {"x": torch.tensor([3.0, 4.0])}, Origin("base", "somewhere"))
        >>> inner(vector, vector)
        25.0
    """
    a, b = whole(first), whole(second)
    return sum(float((a[name].double() * b[name].double()).sum()) for name in a if name in b)


def _combination(combination: Linear) -> Combination:
    return Combination.of(list(combination.terms()))


def _parts(combination: Linear) -> list[Part]:
    """Return vectors and coefficients, at least one."""
    parts = list(_combination(combination).coefficients().items())
    if not parts:
        raise ModelError(
            given="a combination in which nothing is left",
            expected="at least one vector with a coefficient other than 0",
            hint="the base itself is the combination of no vectors",
        )
    _one_base(parts)
    return parts


def _one_base(parts: Sequence[Part]) -> None:
    """Refuse vectors of different bases."""
    first = parts[0][0]
    for vector, _ in parts:
        if vector.origin.base != first.origin.base:
            raise ModelError(
                given=f"{first} of {first.origin.source} ({first.origin.base[:12]}) and "
                f"{vector} of {vector.origin.source} ({vector.origin.base[:12]})",
                expected="vectors of one base",
                hint="transfer one to the other's base, if they are siblings: --allow-sibling, or vectors.transferred",
            )


def _origin(parts: Sequence[Part], made: str) -> Origin:
    """Return where a combination comes from."""
    origins = [vector.origin for vector, _ in parts]
    domain, level = (
        " + ".join(dict.fromkeys(filter(None, texts)))
        for texts in ((each.domain for each in origins), (each.level for each in origins))
    )
    return Origin(origins[0].base, origins[0].source, domain, level, made)


def _merged(parts: list[Part], wholes: list[LazyTensors], merge: Callable[[str], Tensor], made: str) -> Vector:
    names = tuple(sorted({name for each in wholes for name in each}))
    return Vector({}, LazyTensors(names, merge), _origin(parts, made), "merged")


def _check_density(density: float) -> None:
    if not 0 < density <= 1:
        raise ConfigError(
            given=f"density={density}", expected="above 0 and at most 1", hint="0.2 keeps every fifth value"
        )


def _threshold(tensors: Mapping[str, Tensor], density: float) -> float:
    """Return the smallest magnitude among the ``density`` largest of all values.

    The bits of non-negative float32 numbers are in the numbers' order: counting by their upper half, then by the lower
    half within one bin, finds the exact value in two passes, with one tensor in memory.
    """
    upper = torch.zeros(1 << 16, dtype=torch.int64)
    for name in tensors:
        upper += (_bits(tensors[name]) >> 16).bincount(minlength=1 << 16)
    wanted = max(1, int(density * int(upper.sum())))
    above = upper.flip(0).cumsum(0).flip(0)  # how many are in this bin or higher
    place = int((above >= wanted).nonzero().max())
    left = wanted - int(above[place] - upper[place])
    lower = torch.zeros(1 << 16, dtype=torch.int64)
    for name in tensors:
        bits = _bits(tensors[name])
        lower += (bits[bits >> 16 == place] & 0xFFFF).bincount(minlength=1 << 16)
    above = lower.flip(0).cumsum(0).flip(0)
    found = place << 16 | int((above >= left).nonzero().max())
    return float(torch.tensor(found, dtype=torch.int32).view(torch.float32))


def _bits(tensor: Tensor) -> Tensor:
    return tensor.abs().float().reshape(-1).view(torch.int32)
