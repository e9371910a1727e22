"""The weights of one transformer layer as the lean pass reads them, with what adapters add to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from trimtab.policies.company import multiplied
from trimtab.policies.family import base_of, projections
from trimtab.policies.lowrank import Factors, Point, Use
from trimtab.policies.packed import Packed
from trimtab.policies.shift import Norm, Shifts, stacked


@dataclass(frozen=True)
class Sources:
    """What layers are read from.

    Args:
        model: the transformer.
        adapters: whose factors and differences are read.
        shifts: plain differences that go with adapters.
        beside: whether first factors are multiplied together with the frozen weights.
        reorder: whether frozen weights are reordered for the processor.
    """

    model: Any
    adapters: tuple[str, ...]
    shifts: Shifts
    beside: bool
    reorder: bool


@dataclass(frozen=True)
class Projection:
    """Frozen projections of one input, and what adapters add to them.

    Args:
        frozen: the weights.
        factors: low-rank ones, or None.
        bias: differences of the biases, (A, out), or None.
    """

    frozen: Packed
    factors: Factors | None
    bias: Tensor | None

    def __call__(self, x: Tensor, use: Use | None) -> Tensor:
        """Map rows, (M, in) to (M, out), with the low-rank part where any row uses it."""
        mapped, factors = self.frozen(x), self.factors
        if factors is not None:
            mapped = factors.frozen(mapped) if use is None else factors.add(mapped, x, use.columns)
        if self.bias is not None and use is not None:
            mapped = mapped + multiplied(use.amounts, self.bias).to(mapped.dtype)
        return mapped

    def add_to(self, total: Tensor, x: Tensor, use: Use | None) -> None:
        """Add the output to a float32 total, (M, out), in place."""
        if self.factors is None or use is None:
            total.add_(self(x, use))
            return
        self.factors.add_to(total, self.frozen(x), x, use.columns)
        if self.bias is not None:
            total.add_(multiplied(use.amounts, self.bias))


@dataclass(frozen=True)
class Layer:
    """One layer."""

    norm_in: Norm
    qkv: Projection
    q_norm: Norm | None
    k_norm: Norm | None
    out: Projection
    norm_mid: Norm
    gate_up: Projection
    down: Projection

    @staticmethod
    def read(sources: Sources, number: int, before: Layer | None) -> Layer:
        """Read a layer; the frozen weights of the one before are kept where it has them."""
        layer = sources.model.model.layers[number]
        attention, prefix = layer.self_attn, f"model.layers.{number}."

        def norm(module: Any, name: str) -> Norm:
            weight = module.weight.detach()
            return Norm(weight, stacked(sources.shifts, sources.adapters, f"{prefix}{name}.weight", weight))

        names = [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
        rooms = ["self_attn", "self_attn", "mlp", "mlp"]
        packed = [None] * 4 if before is None else [each.frozen for each in before.projections]
        qkv, out, gate_up, down = (
            _projection(sources, point, [f"{prefix}{room}.{each}" for each in own], old)
            for point, own, room, old in zip(projections(layer), names, rooms, packed, strict=True)
        )
        normed = isinstance(sources.model, Qwen3ForCausalLM)
        return Layer(
            norm_in=norm(layer.input_layernorm, "input_layernorm"),
            qkv=qkv,
            q_norm=norm(attention.q_norm, "self_attn.q_norm") if normed else None,
            k_norm=norm(attention.k_norm, "self_attn.k_norm") if normed else None,
            out=out,
            norm_mid=norm(layer.post_attention_layernorm, "post_attention_layernorm"),
            gate_up=gate_up,
            down=down,
        )

    @property
    def projections(self) -> tuple[Projection, ...]:
        """Its projections: attention in and out, feed-forward in and out."""
        return self.qkv, self.out, self.gate_up, self.down


def pack(modules: Point, factors: Factors | None, *, reorder: bool) -> Packed:
    """Stack the frozen weights of projections, and the first factors where they go beside them."""
    plain = [base_of(module) for module in modules]
    weights = [module.weight.detach() for module in plain]
    biases = [None if module.bias is None else module.bias.detach() for module in plain]
    if factors is not None and factors.beside:
        weights.append(factors.down.to(weights[0].dtype))
        biases.append(None if biases[0] is None else biases[0].new_zeros(len(factors.down)))
    return Packed(weights, biases, reorder=reorder)


def _projection(sources: Sources, point: Point, names: Sequence[str], packed: Packed | None) -> Projection:
    factors = Factors.of(point, sources.adapters, beside=sources.beside)
    frozen = pack(point, factors, reorder=sources.reorder) if packed is None else packed
    outs = [base_of(module).weight[:, 0] for module in point]
    parts = [
        stacked(sources.shifts, sources.adapters, f"{name}.bias", like) for name, like in zip(names, outs, strict=True)
    ]
    if all(part is None for part in parts):
        return Projection(frozen, factors, None)
    filled = [
        like.new_zeros((len(sources.adapters), len(like)), dtype=torch.float32) if part is None else part
        for part, like in zip(parts, outs, strict=True)
    ]
    return Projection(frozen, factors, torch.cat(filled, 1))
