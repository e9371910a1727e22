"""Steering ``transformers``' ``generate`` from a logits processor that holds a second model with its own cache.

One step runs the two models one after the other; the processor serves one call of ``generate`` and must be made anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from trimtab.benchmarks.baselines import plain
from trimtab.benchmarks.baselines.batch import left_pad


class SecondModel(LogitsProcessor):  # type: ignore[misc]
    """Adds a second model's logits to the scores of a step.

    Args:
        model: the second model.
        strength: what its logits are multiplied by.
        mask: attention mask of the prompts, shape (B, T).
    """

    def __init__(self, model: PreTrainedModel, strength: float, mask: Tensor) -> None:
        self._model, self._strength, self._mask = model, strength, mask
        self._cache = DynamicCache()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Run the second model on the tokens it has not seen yet."""
        block = input_ids[:, self._cache.get_seq_length() :]
        grown = input_ids.shape[1] - self._mask.shape[1]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), grown)], 1)
        positions = self._mask.cumsum(1).sub(1).clamp(min=0)
        logits: Tensor = self._model(
            input_ids=block,
            attention_mask=self._mask,
            position_ids=positions[:, -block.shape[1] :],
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return scores + self._strength * logits


def generate(
    model: PreTrainedModel,
    second: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    strength: float,
    max_new_tokens: int,
    greedy: bool = False,
) -> Tensor:
    """Generate from ``model * second ** strength``; arguments and result as in :func:`plain.generate`."""
    _, mask = left_pad(prompts, model.device)
    processors = LogitsProcessorList([SecondModel(second, strength, mask)])
    return plain.generate(model, prompts, max_new_tokens=max_new_tokens, greedy=greedy, processors=processors)
