"""Plain differences of vectors in the lean pass: norms, biases, embeddings, output layer, every row at its own scales.

A large matrix is never kept per row: a row's norm weight is ``w + sum_a s_a dw_a``, the rest is added to outputs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.policies.company import multiplied

Shifts = Mapping[str, Mapping[str, Tensor]]
"""Adapter name to the plain differences that go with it, by tensor name."""

EMBEDDINGS = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
FINAL_NORM = "model.norm.weight"

_SHIFTED = re.compile(
    r"model\.embed_tokens\.weight|lm_head\.weight|model\.norm\.weight"
    r"|model\.layers\.\d+\.(?:input_layernorm|post_attention_layernorm|self_attn\.[qk]_norm)\.weight"
    r"|model\.layers\.\d+\.(?:self_attn|mlp)\.\w+_proj\.bias"
)


def can_shift(name: str) -> bool:
    """Return whether a tensor of the Llama family is one whose difference can be scaled row by row.

    Example:
        >>> can_shift("model.layers.3.input_layernorm.weight"), can_shift("model.layers.3.mlp.up_proj.weight")
        (True, False)
    """
    return _SHIFTED.fullmatch(name) is not None


def stacked(shifts: Shifts, adapters: Sequence[str], name: str, like: Tensor) -> Tensor | None:
    """Return the differences of a tensor under A adapters, (A, *shape), float32; None where none changes it."""
    found = {number: shifts[each][name] for number, each in enumerate(adapters) if name in shifts.get(each, {})}
    if not found:
        return None
    differences = torch.zeros((len(adapters), *like.shape), device=like.device)
    for number, difference in found.items():
        differences[number] = difference.to(like.device)
    return differences


@dataclass(frozen=True)
class Norm:
    """The weight of a norm and how adapters change it.

    Args:
        weight: shape (d,).
        differences: shape (A, d), or None where no adapter changes it.
    """

    weight: Tensor
    differences: Tensor | None

    def at(self, amounts: Tensor | None) -> Tensor:
        """Return the weight, (d,), or that of each of M tokens at its own scales, (M, d)."""
        if amounts is None or self.differences is None:
            return self.weight
        return (self.weight.float() + multiplied(amounts, self.differences)).to(self.weight.dtype)

    def at_heads(self, amounts: Tensor | None, block: int) -> Tensor:
        """Return the same for the heads of rows of T tokens: (D,), or (N, T, 1, D)."""
        weight = self.at(amounts)
        return weight if weight.dim() == 1 else weight.view(-1, block, 1, weight.shape[1])


@dataclass(frozen=True)
class Table:
    """How adapters change a matrix with a row for each token of the vocabulary.

    Args:
        differences: adapter number to its difference, (V, d).
    """

    differences: Mapping[int, Tensor]

    @staticmethod
    def of(shifts: Shifts, adapters: Sequence[str], name: str, like: Tensor) -> Table:
        """Collect the differences of a tensor under some adapters, in the dtype of the tensor itself."""
        changed = [(number, shifts[each][name]) for number, each in enumerate(adapters) if name in shifts.get(each, {})]
        return Table({number: difference.to(like.device, like.dtype) for number, difference in changed})

    def embed(self, embedded: Tensor, tokens: Tensor, amounts: Tensor | None) -> Tensor:
        """Add to the embeddings of (N, T) tokens, (N, T, d), amounts (N * T, A)."""
        if amounts is None or not self.differences:
            return embedded
        total = embedded.float()
        for number, difference in self.differences.items():
            total = total + amounts[:, number].view(*tokens.shape, 1) * difference[tokens]
        return total.to(embedded.dtype)

    def read_out(self, logits: Tensor, hidden: Tensor, amounts: Tensor | None) -> Tensor:
        """Add to logits of M tokens, (M, V), whose hidden states are (M, d) and amounts (M, A)."""
        if amounts is None:
            return logits
        for number, difference in self.differences.items():
            scaled = (hidden * amounts[:, number, None]).to(hidden.dtype)
            logits = logits + multiplied(scaled, difference.t())
        return logits
