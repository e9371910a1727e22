"""Mixes of vectors as LoRA adapters, named ``medical:0.7+legal:-0.3``, each made when it is first asked for.

``sum_i c_i B_i A_i`` is one adapter whose rank is the sum of ranks: nothing is lost. Names have one spelling each, so
that a client can neither fill memory nor find the same mix in two places of a cache.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from trimtab.errors import ConfigError, UsageError
from trimtab.policies.knob import number_text
from trimtab.policies.lora_files import write_factors
from trimtab.policies.vector import Combination, LowRank, Vector
from trimtab.policies.vector_folder import load_vector
from trimtab.vectors.combine import realise

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The largest ranks that vLLM can be started with."""

STEP = 0.01
"""Coefficients are rounded to multiples of it, unless the operator says otherwise."""

MIXES_VARIABLE = "TRIMTAB_VLLM_MIXES"
"""The environment variable that tells a server which vectors it has."""

LARGEST = 10.0
"""Coefficients beyond it are refused."""


@dataclass(frozen=True)
class Mixes:
    """Vectors of one base, and the mixes of them.

    Args:
        vectors: name to vector; low-rank ones alone, on linear layers.
        room: folder in which adapters are written; nothing else is in it.
        step: that coefficients are multiples of.

    Raises:
        ConfigError: a vector has plain differences, or the ranks sum to more than vLLM takes.
        UsageError: the step is not above 0.

    Example:
        >>> from trimtab.policies.vector import LowRank, Origin
        >>> import torch
        >>> one = Vector({"lin": LowRank(torch.ones(1, 2), torch.ones(2, 1))}, {}, Origin("base", "here"), "a")
        >>> mixes = Mixes({"medical": one, "legal": one}, Path("mixes"))
        >>> mixes.name({"medical": 0.7, "legal": -0.301})
        'legal:-0.3+medical:0.7'
        >>> mixes.read("legal:-0.3+medical:0.7")
        {'legal': -0.3, 'medical': 0.7}
        >>> mixes.rank
        8
    """

    vectors: Mapping[str, Vector]
    room: Path
    step: float = STEP

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise UsageError(given=f"a step of {self.step}", expected="a number above 0, at most 1", hint="0.01")
        for name, vector in self.vectors.items():
            if vector.dense:
                raise ConfigError(
                    given=f"the vector {name!r}, which has plain differences of {sorted(vector.dense)[0]}",
                    expected="low-rank factors alone, which is what a LoRA holds",
                    hint="`trimtab vector compress`, or write the sum as a model with `trimtab vector apply`",
                )
        _ = self.rank

    @staticmethod
    def load(folders: Mapping[str, str], room: Path, *, step: float = STEP) -> Mixes:
        """Read vectors from their folders; the class has the arguments."""
        return Mixes({name: load_vector(folder, label=name) for name, folder in folders.items()}, room, step)

    @property
    def rank(self) -> int:
        """The largest rank to start vLLM with, of those that it offers.

        Raises:
            ConfigError: none is large enough.
        """
        modules = {module for vector in self.vectors.values() for module in vector.low_rank}
        needed = max((self._rank_of(module) for module in modules), default=0)
        for rank in RANKS:
            if needed <= rank:
                return rank
        raise ConfigError(
            given=f"vectors ({', '.join(sorted(self.vectors))}) whose ranks sum to {needed} in one layer",
            expected=f"at most {RANKS[-1]}, the largest LoRA that vLLM takes",
            hint="make them smaller: `trimtab vector compress FOLDER --max-rank 64`",
        )

    @property
    def targets(self) -> tuple[str, ...]:
        """The last names of the layers that some vector changes; vLLM adds LoRAs to no others then."""
        return tuple(sorted({module.split(".")[-1] for vector in self.vectors.values() for module in vector.low_rank}))

    def _rank_of(self, module: str) -> int:
        """Return the sum of ranks in a layer."""
        return sum(v.low_rank[module].rank for v in self.vectors.values() if module in v.low_rank)

    def name(self, coefficients: Mapping[str, float]) -> str:
        """Return the one name of a mix: rounded, without zeros, in the order of names; empty where nothing is left.

        Raises:
            UsageError: there is no such vector, or a coefficient is not from -10 to 10.
        """
        for vector, value in coefficients.items():
            if vector not in self.vectors or not -LARGEST <= value <= LARGEST:  # not a number fails too
                raise UsageError(
                    given=f"{vector}:{value}",
                    expected=f"a coefficient from {-LARGEST:g} to {LARGEST:g} of {', '.join(sorted(self.vectors))}",
                    hint="write medical:0.7+legal:-0.3",
                )
        rounded = {vector: self._rounded(value) for vector, value in sorted(coefficients.items())}
        return "+".join(f"{vector}:{number_text(value)}" for vector, value in rounded.items() if value)

    def read(self, name: str) -> dict[str, float] | None:
        """Return the coefficients that a name stands for; None unless it is one that :meth:`name` gives."""
        coefficients: dict[str, float] = {}
        for part in name.split("+"):
            vector, _, text = part.partition(":")
            try:
                coefficients[vector] = float(text)
            except ValueError:
                return None
        try:
            return coefficients if self.name(coefficients) == name else None
        except UsageError:
            return None

    def write(self, coefficients: Mapping[str, float], base: str) -> Path:
        """Write the adapter of a mix into a folder of its own; where all coefficients round to 0 it changes nothing.

        Args:
            coefficients: vector to coefficient.
            base: source of the base.
        """
        rounded = {name: self._rounded(value) for name, value in coefficients.items() if self._rounded(value)}
        if rounded:
            factors = realise(
                sum((value * self.vectors[name] for name, value in rounded.items()), Combination())
            ).low_rank
        else:
            module, some = next(each for vector in self.vectors.values() for each in vector.low_rank.items())
            factors = {module: LowRank(torch.zeros_like(some.down[:1]), torch.zeros_like(some.up[:, :1]))}
        self.room.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="mix-", dir=self.room))
        write_factors(folder, factors, base)
        return folder

    def _rounded(self, value: float) -> float:
        return round(round(value / self.step) * self.step, 10) + 0.0  # + 0.0 makes -0.0 a 0
