"""Proxy tuning as it is written today: three models one after the other at every step, each with its own cache.

Reference: Liu et al. (2024), Tuning Language Models by Proxy; Mitchell et al. (2024), emulated fine-tuning. Written
from the formula.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from trimtab.benchmarks.baselines.batch import left_pad, next_tokens


def generate(
    models: tuple[PreTrainedModel, PreTrainedModel, PreTrainedModel],
    prompts: Sequence[Sequence[int]],
    *,
    strength: float,
    max_new_tokens: int,
    end_ids: frozenset[int] = frozenset(),
    greedy: bool = False,
) -> Tensor:
    """Generate exactly ``max_new_tokens`` tokens from ``base + strength * (tuned - untuned)`` logits.

    Args:
        models: base, tuned and untuned, over the same tokens.
        prompts: token ids; shorter ones are padded on the left.
        strength: of the difference.
        max_new_tokens: of every answer.
        end_ids: tokens that would end an answer early, and are forbidden.
        greedy: take the likeliest token instead of sampling at temperature 1.

    Returns:
        The new tokens, shape (B, max_new_tokens).
    """
    block, mask = left_pad(prompts, models[0].device)
    caches = [DynamicCache() for _ in models]
    ends = sorted(end_ids)
    chosen = []
    with torch.inference_mode():
        while True:
            positions = mask.cumsum(1).sub(1).clamp(min=0)[:, -block.shape[1] :]
            base, tuned, untuned = (
                model(
                    input_ids=block,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits[:, -1]
                for model, cache in zip(models, caches, strict=True)
            )
            scores = base.float() + strength * (tuned.float() - untuned.float())
            scores[:, ends] = -torch.inf
            block = next_tokens(scores, greedy=greedy)
            chosen.append(block)
            if len(chosen) == max_new_tokens:
                return torch.cat(chosen, 1)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
