"""Attention of a block of tokens to the slots of their rows, shared ones first and the rows' own after them.

On a CPU the slots are attended to in chunks, and the chunks' answers are weighed by their log-sum-exps. Every product
then has the same few shapes, whatever other rows are there, so that a row's numbers are the same bit for bit alone and
in company: a kernel adds up 300 slots in another order than 200, but never sees more than a chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trimtab.policies.shared import Shared
from trimtab.policies.slots import CHUNK

_FEW_QUERIES = 64
"""Blocks of at most this many queries a key head are grouped; longer ones, prompts, use the kernel for prompts."""

_MANY_QUERIES = 256
"""In pieces, blocks of more queries a key head are split."""

_QUERIES = 4
"""In pieces, queries come in multiples of this: a rest takes kernels that look at where a row lies in memory."""

_flash: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default

Found = tuple[Tensor, Tensor]
"""What chunks say and how much it weighs: (.., L, D) and its log-sum-exp (.., L)."""


@dataclass(frozen=True)
class Sight:
    """What a block may attend to.

    Args:
        mask: added to attention scores, (N, 1, T or 1, slots); None where all is seen, or for causal blocks. It is for
            the rows' own slots alone where they are attended to in pieces, elsewhere for the shared ones too.
        heads: key heads.
        group: query heads of each.
        causal: whether the block is whole prompts, which begin at the first slot.
        shared: slots before the rows' own, that rows have in common.
    """

    mask: Tensor | None
    heads: int
    group: int
    causal: bool = False
    shared: Shared | None = None

    @cached_property
    def grouped(self) -> Tensor | None:
        """The mask for the query heads of a key head as one block of queries, (N, 1, L or 1, slots)."""
        return self.mask if self.mask is None or self.mask.shape[2] == 1 else self.mask.repeat(1, 1, self.group, 1)

    @cached_property
    def even(self) -> Tensor:
        """The same for a multiple of queries; those that are added see everything."""
        assert self.grouped is not None
        few = self.grouped.shape[2]
        return self.grouped if few == 1 else F.pad(self.grouped, (0, 0, 0, -few % _QUERIES))

    @cached_property
    def chunked(self) -> Tensor:
        """The same by chunks, (N H, chunks, L or 1, chunk)."""
        size, _, few, width = self.even.shape
        chunks = self.even.view(size, 1, few, width // CHUNK, CHUNK).transpose(2, 3)
        return chunks.expand(-1, self.heads, -1, -1, -1).flatten(0, 1)


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
    key_heads, group, pieces = sight.heads, sight.group, in_pieces(queries.device)
    if sight.causal and pieces:
        return _in_blocks(queries.transpose(1, 2), keys, values).transpose(1, 2)
    if pieces and block > (most := max(1, _MANY_QUERIES // group)):
        assert sight.mask is not None
        parts = zip(torch.split(queries, most, 1), torch.split(sight.mask, most, 2), strict=True)
        return torch.cat([attend(few, keys, values, replace(sight, mask=mask), common) for few, mask in parts], 1)
    if not pieces and common is None and (sight.causal or group * block > _FEW_QUERIES):
        return _at_once(queries.transpose(1, 2), keys, values, sight).transpose(1, 2)
    # The heads that share a key head are so many more queries to it, which reads keys and values once.
    grouped = queries.view(size, block, key_heads, group, width).permute(0, 2, 3, 1, 4) if block > 1 else queries
    grouped = grouped.reshape(size, key_heads, group * block, width)
    if pieces:
        mixed = _in_chunks(grouped, keys, values, sight, common)
    elif common is None or sight.shared is None:
        mixed = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=sight.grouped)
    else:
        mixed = _attend_both(grouped, sight.shared, common, (keys, values), sight.grouped)
    if block > 1:
        mixed = mixed.view(size, key_heads, group, block, width).permute(0, 3, 1, 2, 4)
    return mixed.reshape(size, block, heads, width)


def in_pieces(device: torch.device) -> bool:
    """Return whether slots are attended to in pieces, so that rows do not depend on their neighbours."""
    return device.type == "cpu"


def _at_once(queries: Tensor, keys: Tensor, values: Tensor, sight: Sight) -> Tensor:
    """Attend with one kernel; (N, heads, T, D)."""
    return F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=sight.mask, is_causal=sight.causal, enable_gqa=sight.group > 1
    )


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


# -- in pieces -------------------------------------------------------------------------------------------------------


def _in_blocks(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend to prompts with as many queries at a time as there are slots in a chunk; (N, heads, T, D)."""
    done = []
    for start in range(0, queries.shape[2], CHUNK):
        asked, end = queries[:, :, start : start + CHUNK], start + CHUNK
        said, weight = _kernel(asked, keys[:, :, start:end], values[:, :, start:end], causal=True)
        if start:  # how many slots come before is a matter of the block alone
            before = _kernel(asked, keys[:, :, :start], values[:, :, :start])
            said = _merged(torch.stack([before[0], said], 1), torch.stack([before[1], weight], 1))
        done.append(said)
    return torch.cat(done, 2) if len(done) > 1 else done[0]


def _in_chunks(
    queries: Tensor, keys: Tensor, values: Tensor, sight: Sight, common: tuple[Tensor, Tensor] | None
) -> Tensor:
    """Attend with a few queries to slots in whole chunks, or to less than one; (N, H, L, D)."""
    few = queries.shape[2]
    if few % _QUERIES:
        queries = F.pad(queries, (0, 0, 0, -few % _QUERIES))
    if keys.shape[2] <= CHUNK:
        said, weight = _kernel(queries, keys, values, mask=sight.even)
        if common is None:
            return said[:, :, :few]
        said, weight = said.flatten(0, 1).unsqueeze(1), weight.flatten(0, 1).unsqueeze(1)
    else:
        # Rows and heads become one dimension, chunks take the place of heads.
        chunks = _chunks(keys), _chunks(values)
        asked = queries.flatten(0, 1).unsqueeze(1).expand(-1, chunks[0].shape[1], -1, -1)
        said, weight = _kernel(asked, *chunks, mask=sight.chunked)
    if common is not None and sight.shared is not None:
        before = _to_prompts(queries, sight.shared, common)
        said, weight = torch.cat([before[0], said], 1), torch.cat([before[1], weight], 1)
    return _merged(said, weight).view(queries.shape)[:, :, :few]


def _to_prompts(queries: Tensor, shared: Shared, common: tuple[Tensor, Tensor]) -> Found:
    """Attend to the chunks of shared prompts, all rows of a prompt together; (N, H, L, D) to (N H, chunks, L, D)."""
    size, heads, few, width = queries.shape
    count = shared.width // CHUNK
    asked = shared.gather(queries).flatten(0, 1).unsqueeze(1).expand(-1, count, -1, -1)
    nothing = queries.new_zeros(()).expand(1, 1, 1, CHUNK)  # the kernel with a mask rounds otherwise than without
    said, weight = _kernel(asked, *map(_chunks, common), mask=nothing)
    missing = torch.arange(count) >= shared.chunks[:, None, None]
    weight = weight.view(-1, heads, *weight.shape[1:]).masked_fill(missing[..., None], -torch.inf)
    said = shared.scatter(said.reshape(len(shared.chunks), heads * count, -1, width))
    weight = shared.scatter(weight.flatten(1, 2).unsqueeze(-1))
    return said.reshape(size * heads, count, few, width), weight.reshape(size * heads, count, few)


def _chunks(slots: Tensor) -> Tensor:
    """Split slots into chunks, (N, H, W, D) to (N H, chunks, chunk, D), without a copy."""
    size, heads, width, depth = slots.shape
    return slots.flatten(0, 1).view(size * heads, width // CHUNK, CHUNK, depth)


def _merged(said: Tensor, weight: Tensor) -> Tensor:
    """Weigh what chunks say, (.., chunks, .., L, D), the chunks in the second dimension."""
    # In float64 the order in which they are added up makes no difference after rounding, but for one case in 1e8.
    shares = weight.double().softmax(1).unsqueeze(-1)
    merged: Tensor = (said * shares).sum(1).to(said.dtype)
    return merged


def _kernel(
    queries: Tensor, keys: Tensor, values: Tensor, *, causal: bool = False, mask: Tensor | None = None
) -> Found:
    """Attend with the kernel of processors, which also tells how much its answer weighs; (B, heads, L, D)."""
    said, weight = _flash(queries, keys, values, 0.0, causal, attn_mask=mask)
    return said, weight
