"""Making vectors small: truncated singular value decompositions of what they change in linear layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.policies.checkpoint import Layout, Weights
from trimtab.policies.lm import LM
from trimtab.policies.vector import LowRank, Vector
from trimtab.vectors.whole import whole

OnModule = Callable[[int, int], None]
"""Told how many of how many modules are done."""


@dataclass(frozen=True)
class Kept:
    """What a truncated decomposition kept of one module.

    Args:
        module: its name.
        shape: (out, in).
        rank: number of singular values that were kept.
        energy: their share of the squared Frobenius norm.
        squared_norm: of the difference.
    """

    module: str
    shape: tuple[int, int]
    rank: int
    energy: float
    squared_norm: float


@dataclass(frozen=True)
class Compression:
    """A compressed vector and what compressing it has cost.

    Args:
        vector: low-rank factors, and differences that are kept as they were.
        modules: what was kept of each linear layer.
        unchanged: the tensors that are kept as they were: norms, biases, embeddings and the output layer.
        unchanged_squared_norm: theirs.
        log_prob_error: largest difference of a log-probability that it makes on some prompts, in nats, once measured.
    """

    vector: Vector
    modules: tuple[Kept, ...]
    unchanged: tuple[str, ...]
    unchanged_squared_norm: float
    log_prob_error: float | None = None

    @property
    def energy(self) -> float:
        """The kept share of the whole vector's squared norm."""
        whole = sum(each.squared_norm for each in self.modules) + self.unchanged_squared_norm
        lost = sum((1 - each.energy) * each.squared_norm for each in self.modules)
        return 1.0 - lost / whole if whole else 1.0

    @property
    def parameters(self) -> tuple[int, int]:
        """Numbers of values in linear layers before and after."""
        before = sum(each.shape[0] * each.shape[1] for each in self.modules)
        return before, sum(each.rank * sum(each.shape) for each in self.modules)

    def about(self) -> dict[str, object]:
        """Return what a vector folder says of it."""
        return {
            "kept_energy": self.energy,
            "log_prob_error": self.log_prob_error,
            "modules": {each.module: {"rank": each.rank, "energy": each.energy} for each in self.modules},
        }


def compress(
    vector: Vector,
    *,
    energy: float = 0.99,
    max_rank: int | None = None,
    base: str | Path | LM | None = None,
    on_module: OnModule | None = None,
) -> Compression:
    """Replace the differences of linear layers by low-rank factors; everything else stays as it is.

    ``D ~ U_r S_r V_r^T`` with the smallest r whose singular values have ``energy`` of the squared Frobenius norm:
    no other factors of that rank are closer. ``up = U_r sqrt(S_r)``, ``down = sqrt(S_r) V_r^T``.

    Args:
        vector: any.
        energy: share of each module's squared norm that is to be kept, above 0 and at most 1.
        max_rank: no module gets more, whatever it loses.
        base: whose linear layers they are; by default the base that the vector says it was taken from.
        on_module: told of progress.

    Returns:
        The vector and a report for each module.

    Raises:
        ConfigError: a number is out of its range.
        ModelError: the base cannot be opened.

    Example:
        >>> from trimtab.testing import tiny_lm
        >>> from trimtab.vectors.extract import between
        >>> base = tiny_lm()
        >>> small = compress(between(tiny_lm(seed=1), base), energy=0.9, base=base)
        >>> all(each.energy >= 0.9 for each in small.modules), "model.norm.weight" in small.vector.dense
        (True, False)

    Reference: Eckart and Young (1936), The approximation of one matrix by another of lower rank.
    """
    if not 0 < energy <= 1 or (max_rank is not None and max_rank < 1):
        raise ConfigError(
            given=f"energy={energy}, max_rank={max_rank}",
            expected="an energy above 0 and at most 1, and a rank of at least 1",
            hint="energy=0.99 keeps 99 % of every module's squared norm",
        )
    linear = _linear(base if base is not None else vector.origin.source)
    tensors = whole(vector)
    modules = [name.removesuffix(".weight") for name in tensors if name.removesuffix(".weight") in linear]
    factors = {module: each for module, each in vector.low_rank.items() if module not in linear}
    kept = []
    for done, module in enumerate(modules):
        factors[module], report = _truncated(module, tensors[f"{module}.weight"], energy, max_rank)
        kept.append(report)
        if on_module is not None:
            on_module(done + 1, len(modules))
    others = {name: vector.dense[name] for name in vector.dense if name.removesuffix(".weight") not in linear}
    unchanged = tuple(name for name in tensors if name.removesuffix(".weight") not in linear)
    limit = "" if max_rank is None else f", rank at most {max_rank}"
    made = f"{vector.origin.made}; truncated to {energy:g} of each linear layer's squared norm{limit}"
    small = Vector(factors, others, replace(vector.origin, made=made), vector.label)
    rest = sum(float(tensors[name].double().square().sum()) for name in unchanged)
    return Compression(small, tuple(kept), unchanged, rest)


def _truncated(module: str, difference: Tensor, energy: float, max_rank: int | None) -> tuple[LowRank, Kept]:
    """Keep the largest singular values of one module."""
    left, values, right = torch.linalg.svd(difference.float(), full_matrices=False)
    squares = values.double().square()
    total = float(squares.sum())
    # Values that are rounding errors of an exactly low-rank difference are no part of it.
    noise = float(values[0]) * max(difference.shape) * torch.finfo(torch.float32).eps
    enough = int(torch.searchsorted(squares.cumsum(0), energy * total)) + 1
    rank = max(1, min(enough, int((values > noise).sum()), max_rank or len(values)))
    root = values[:rank].sqrt()
    factors = LowRank((root[:, None] * right[:rank]).contiguous(), (left[:, :rank] * root).contiguous())
    share = float(squares[:rank].sum()) / total if total else 1.0
    return factors, Kept(module, (difference.shape[0], difference.shape[1]), rank, share, total)


def _linear(base: str | Path | LM) -> frozenset[str]:
    """Return the names of the linear layers whose differences may be approximated: all but the output layer."""
    return Layout.of(base.trunk.model).linear if isinstance(base, LM) else Weights.open(base).layout.linear
