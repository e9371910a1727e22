"""Sampling from one model with ``transformers``: its own ``generate``, as its documentation has it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel

from trimtab.benchmarks.baselines.batch import left_pad


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    n: int = 1,
    greedy: bool = False,
    processors: LogitsProcessorList | None = None,
) -> Tensor:
    """Generate exactly ``max_new_tokens`` new tokens, ``n`` times a prompt.

    Args:
        model: a causal LM.
        prompts: token ids; shorter ones are padded on the left.
        max_new_tokens: of every answer; none may end early.
        n: answers a prompt, each of which prefills it.
        greedy: take the likeliest token instead of sampling at temperature 1.
        processors: what else changes the scores of a step.

    Returns:
        The new tokens, shape (B * n, max_new_tokens).
    """
    ids, mask = left_pad(prompts, model.device)
    sampling = {"do_sample": False} if greedy else {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    with torch.inference_mode():
        whole: Tensor = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            min_new_tokens=max_new_tokens,
            num_return_sequences=n,
            pad_token_id=0,
            logits_processor=processors,
            **sampling,
        )
    return whole[:, ids.shape[1] :]
