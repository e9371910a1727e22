"""Prompts of different lengths as one left-padded batch, and the token that follows given scores."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def left_pad(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return token ids and attention mask of a batch aligned to the right, both of shape (B, T).

    Example:
        >>> left_pad([[5, 6], [7]], torch.device("cpu"))
        (tensor([[5, 6],
                [0, 7]]), tensor([[1, 1],
                [0, 1]]))
    """
    width = max(len(prompt) for prompt in prompts)
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def next_tokens(scores: Tensor, *, greedy: bool) -> Tensor:
    """Pick a token for every row of unnormalised scores (B, V): the likeliest, or one drawn at temperature 1."""
    if greedy:
        return scores.argmax(-1, keepdim=True)
    return torch.multinomial(scores.softmax(-1), 1)
