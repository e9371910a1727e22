"""Attention of a block of tokens to the slots of their rows, shared ones first and the rows' own after them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from trimtab.policies.shared import Shared

_FEW_QUERIES = 64
"""Blocks of at most this many queries a key head are grouped; longer ones, prompts, use the kernel for prompts."""


@dataclass(frozen=True)
class Sight:
    """What a block may attend to.

    Args:
        mask: added to attention scores, (N or 1, 1, T or 1, extent); None where all is seen, or for causal blocks.
        causal: whether the block is whole prompts without padding.
        shared: slots before the rows' own, that rows have in common.
    """

    mask: Tensor | None
    causal: bool = False
    shared: Shared | None = None


def attend(queries: Tensor, keys: Tensor, values: Tensor, sight: Sight, common: tuple[Tensor, Tensor] | None) -> Tensor:
    """Attend to every slot that is seen.

    Args:
        queries: (N, T, heads, D).
        keys: in the rows' own slots, (N, H, W, D), where each of the H key heads serves heads / H queries.
        values: like the keys.
        sight: what is seen.
        common: keys and values of the shared slots, (M, H, P, D); None where there are none.

    Returns:
        (N, T, heads, D).
    """
    size, block, heads, width = queries.shape
    key_heads, mask = keys.shape[1], sight.mask
    group = heads // key_heads
    if common is None and (sight.causal or group * block > _FEW_QUERIES):
        mixed = F.scaled_dot_product_attention(
            queries.transpose(1, 2), keys, values, attn_mask=mask, is_causal=sight.causal, enable_gqa=group > 1
        )
        return mixed.transpose(1, 2)
    # The heads that share a key head are so many more queries to it, which reads keys and values once.
    grouped = queries.view(size, block, key_heads, group, width).permute(0, 2, 3, 1, 4)
    grouped = grouped.reshape(size, key_heads, group * block, width)
    repeated = None if mask is None else mask if mask.shape[2] == 1 else mask.repeat(1, 1, group, 1)
    if common is None or sight.shared is None:
        mixed = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=repeated)
    else:
        mixed = _attend_both(grouped, sight.shared, common, (keys, values), repeated)
    return mixed.view(size, key_heads, group, block, width).permute(0, 3, 1, 2, 4).reshape(size, block, heads, width)


def _attend_both(
    queries: Tensor, shared: Shared, common: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor], mask: Tensor | None
) -> Tensor:
    """Attend to shared slots and to the rows' own under one softmax; (N, H, G, D) to (N, H, G, D)."""
    queries = queries * queries.shape[-1] ** -0.5
    theirs = shared.scatter(shared.gather(queries) @ common[0].transpose(2, 3))
    scores = torch.cat([theirs, queries @ own[0].transpose(2, 3)], -1)
    weights = (scores if mask is None else scores + mask).softmax(-1, dtype=torch.float32).to(queries.dtype)
    theirs = shared.scatter(shared.gather(weights[..., : shared.width]) @ common[1])
    return theirs + weights[..., shared.width :] @ own[1]
