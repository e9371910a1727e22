"""Linear heads that say what every next token is worth; both end up as an output layer, one row a token."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn


class FreeHead(nn.Module):
    """A row of its own for every token: ``V(s, y) = w_y . h(s)``.

    Args:
        embeddings: of the tokens, (V, D), for its shape.

    Reference: Liu et al. (2024), Integrated Value Guidance.
    """

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros_like(embeddings, dtype=torch.float32))

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Value given tokens, (B, T), from the states before them, (B, T, D)."""
        return (hidden * self.rows[tokens]).sum(-1)

    def matrix(self) -> Tensor:
        """The output layer, (V, D)."""
        return self.rows


class FactoredHead(nn.Module):
    """A head of few numbers, ``V(s, y) = (u + M e_y) . h(s)``, with the token embeddings ``e_y``, which stay fixed.

    Tokens that are spelled alike or used alike have embeddings alike, so it says something of tokens that the training
    answers hold once or never; with as few answers as fit on a small machine a free head cannot.

    Args:
        embeddings: of the tokens, (V, D).
    """

    embeddings: Tensor

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        size = embeddings.shape[1]
        self.shared = nn.Parameter(torch.zeros(size))
        self.mixed = nn.Parameter(torch.zeros(size, size))
        self.register_buffer("embeddings", embeddings.detach().float(), persistent=False)

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Value given tokens, (B, T), from the states before them, (B, T, D)."""
        return (hidden * (self.shared + self.embeddings[tokens] @ self.mixed.T)).sum(-1)

    def matrix(self) -> Tensor:
        """The output layer, (V, D)."""
        return self.shared + self.embeddings @ self.mixed.T


Head = FreeHead | FactoredHead


def new_head(kind: Literal["factored", "free"], embeddings: Tensor) -> Head:
    """Return an untrained head, which values everything at 0."""
    return FactoredHead(embeddings) if kind == "factored" else FreeHead(embeddings)
