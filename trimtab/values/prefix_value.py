"""The explicit value: a trained scorer that says in one forward what every next token would be worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trimtab.policies.base import Leaf, Prompt
from trimtab.policies.lm import LM
from trimtab.policies.vocabulary import Vocabulary, common_vocabulary
from trimtab.values.reader import Reader
from trimtab.values.value import Chunk, Granularity


@dataclass(frozen=True)
class PrefixValue:
    """A transformer whose output layer gives values instead of logits.

    ``V(x, y_<=t) = head(h(x, y_<t))[y_t]``: what position t - 1 says about the token that was taken at t. The value of
    an answer so far is that of its last token, so it is not a sum. As a factor of a product,
    ``policy * value.leaf ** w``, it adds ``w V`` to the log-probability of every next token.

    Args:
        leaf: the transformer; its output layer has a column a token.

    Example:
        >>> from trimtab.testing import tiny_lm
        >>> value = PrefixValue(tiny_lm())
        >>> value.granularity, value.additive
        ('token', False)

    Reference: Liu et al. (2024), Inference-Time Language Model Alignment via Integrated Value Guidance; values of all
    next tokens by one head also in Mudgal et al. (2024), Controlled Decoding.
    """

    leaf: Leaf

    @staticmethod
    def load(source: str | Path, *, dtype: str = "auto", device: str = "auto") -> PrefixValue:
        """Load a value from a folder.

        Args:
            source: a folder in the format of ``transformers``, whose output layer is the value head.
            dtype: of the weights.
            device: where they go.

        Raises:
            ModelError: there is no such folder, or it holds no model.
        """
        return PrefixValue(LM.load(source, dtype=dtype, device=device))

    @property
    def granularity(self) -> Granularity:
        """Every next token has a value of its own."""
        return "token"

    @property
    def additive(self) -> bool:
        """It is the value of the last token, not a sum."""
        return False

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """The transformer."""
        return (self.leaf,)

    def watched(self, running: Sequence[Leaf]) -> tuple[Leaf, ...]:
        """Return nothing: what is heard of watched leaves are sums of log-probabilities."""
        return ()

    def start(self, prompts: Sequence[Prompt], vocabulary: Vocabulary, watched: Sequence[Leaf]) -> PrefixState:
        """Begin with one row a prompt.

        Raises:
            VocabularyError: the policy that proposes has other tokens.
        """
        common_vocabulary(vocabulary, self.leaf.vocabulary)
        return PrefixState(self, torch.zeros(len(prompts)), Reader.of([self.leaf], prompts))


@dataclass(frozen=True)
class PrefixState:
    """The values of N rows.

    Args:
        value: whose they are.
        last: of the newest token of each row, 0 before the first, (N,).
        reader: of the transformer.
    """

    value: PrefixValue
    last: Tensor
    reader: Reader

    def select(self, rows: Tensor) -> PrefixState:
        """Keep these rows, in this order; a row may appear several times."""
        return PrefixState(self.value, self.last[rows.to(self.last.device)], self.reader.select(rows))

    def extend(self, chunk: Chunk) -> tuple[Tensor, PrefixState]:
        """Value the newest token of every row."""
        entries, reader = self.reader.read(chunk, normalised=False)
        values = entries[self.value.leaf]
        counts = chunk.counts.to(values.device)
        newest = values.gather(1, (counts - 1).clamp(min=0)[:, None]).squeeze(1)
        last = torch.where(counts > 0, newest, self.last.to(values.device))
        return last, PrefixState(self.value, last, reader)

    def ahead(self, tokens: Tensor, heard: Mapping[Leaf, Tensor]) -> Tensor:
        """Look the values of k tokens a row up, (N, k): they were said before the tokens."""
        said = self.reader.ahead[self.value.leaf]
        return said.gather(1, tokens.to(said.device))
