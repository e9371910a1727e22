"""Prompts of different lengths: padded for attention, one after another for everything that treats tokens alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.policies.transfer import to_device


@dataclass(frozen=True)
class Ragged:
    """Where the tokens of N prompts are among N rows of T places.

    Args:
        places: of the prompts' tokens, (M,); None where nothing is padded.
        tokens: which of the tokens stands in each place, (N T,), a row's last one in its padding; None like the places.
        last: the last token of each prompt, (N,).
    """

    places: Tensor | None
    tokens: Tensor | None
    last: Tensor

    @staticmethod
    def of(lengths: Tensor, block: int, device: torch.device) -> Ragged:
        """Return where the tokens of prompts are.

        Args:
            lengths: of the prompts, (N,), on the CPU.
            block: T.
            device: where the tokens are.
        """
        ends, order = lengths.cumsum(0), torch.arange(block)
        last = to_device(ends - 1, device)
        if bool((lengths == block).all()):
            return Ragged(None, None, last)
        places = torch.nonzero((order < lengths[:, None]).flatten()).squeeze(1)
        tokens = (ends - lengths)[:, None] + torch.minimum(order, lengths[:, None] - 1)
        return Ragged(to_device(places, device), to_device(tokens.flatten(), device), last)

    def packed(self, padded: Tensor) -> Tensor:
        """Return what belongs to tokens, (N T, ..) to (M, ..)."""
        return padded if self.places is None else padded[self.places]

    def padded(self, packed: Tensor) -> Tensor:
        """Return what belongs to places, (M, ..) to (N T, ..)."""
        return packed if self.tokens is None else packed[self.tokens]
