"""Where a chunk ends: after so many tokens, at a text, or where the policy is unsure how to go on.

Rows reach their boundaries at different lengths; that the others wait is the business of ``wave.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from trimtab.decoding.running import Running
from trimtab.decoding.stops import completing
from trimtab.errors import ConfigError
from trimtab.policies.vocabulary import Vocabulary


@dataclass(frozen=True)
class Tokens:
    """A chunk ends after a number of tokens.

    Args:
        count: L, at least 1.
    """

    count: int = 5

    ahead: ClassVar[bool] = False
    """Whether it is decided by what the policy says about the next token, so that the newest one must be fed first."""

    def __post_init__(self) -> None:
        _at_least_one("count", self.count)

    def reached(self, running: Running, start: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Return which rows are at the end of a chunk, shape (N,), on the CPU.

        Args:
            running: rows with at least one new token.
            start: tokens of each row before the chunk, shape (N,), on the CPU.
            vocabulary: of their tokens.
        """
        return running.ledger.count - start >= self.count


@dataclass(frozen=True)
class Texts:
    """A chunk ends with the token that completes one of some texts in it.

    Only the chunk's own text counts, so a text that straddles two chunks ends neither.

    Args:
        texts: what ends a chunk, each at least one character.
        longest: tokens after which a chunk ends anyway.

    Raises:
        ConfigError: there are no texts, one is empty, or ``longest`` is below 1.

    Example:
        >>> from trimtab.decoding.search import search
        >>> from trimtab.decoding.shape import chunk_beam
        >>> from trimtab.policies.toy import Table
        >>> from trimtab.values import RewardValue
        >>> words = Table.of({"": {"a": 1.0, ".": 0.0}, "a a": {"a": 0.0, ".": 1.0}})
        >>> length = RewardValue(lambda completions, **_: [float(len(text)) for text in completions])
        >>> (found,) = search(words, ".", length, chunk_beam(1, 1, Texts((".",))), max_new_tokens=6, seed=0)
        >>> [node.text for node in found.trace.nodes]
        ['a a .', 'a a .']
    """

    texts: tuple[str, ...]
    longest: int = 64

    ahead: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.texts, tuple) or not self.texts or not all(self.texts):
            raise ConfigError(
                given=f"a chunk that ends at {self.texts!r}",
                expected="a tuple of texts of at least one character",
                hint='Texts(("\\n",)), lines() or sentences()',
            )
        _at_least_one("longest", self.longest)

    def reached(self, running: Running, start: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Return which rows are at the end of a chunk; :meth:`Tokens.reached` says more."""
        ledger = running.ledger
        there = ledger.count - start >= self.longest
        newest = (ledger.count - 1)[:, None].to(ledger.tokens.device)
        suspects = _completing(vocabulary, self.texts)[ledger.tokens.gather(1, newest).squeeze(1).cpu()]
        for row in torch.nonzero(suspects & ~there).flatten().tolist():
            text = vocabulary.decode(ledger.tokens[row, int(start[row]) : int(ledger.count[row])].tolist())
            there[row] = any(each in text for each in self.texts)
        return there


@dataclass(frozen=True)
class Uncertain:
    """A chunk ends where the next token is uncertain: where the entropy of its distribution reaches a threshold.

    The distribution is the policy's own, at temperature 1 and before any warping. It is looked at before the token is
    drawn, so the uncertain token is the first one of the next chunk.

    Args:
        nats: the threshold; the entropy of a uniform choice among n tokens is log n.
        shortest: tokens before which a chunk does not end, however uncertain the next one is.
        longest: tokens after which a chunk ends anyway.

    Raises:
        ConfigError: the threshold is not a number above 0, or the lengths are not 1 <= shortest <= longest.

    Reference: Li et al. (2025), Cascade Reward Sampling for Efficient Decoding-Time Alignment (CARDS).
    """

    nats: float = 3.0
    shortest: int = 1
    longest: int = 64

    ahead: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 < self.nats < math.inf:
            raise ConfigError(
                given=f"nats={self.nats} of entropy", expected="a number above 0", hint="log 20 = 3.0 is usual"
            )
        if not 1 <= self.shortest <= self.longest:
            raise ConfigError(
                given=f"shortest={self.shortest}, longest={self.longest}",
                expected="1 <= shortest <= longest",
                hint="raise longest",
            )

    def reached(self, running: Running, start: Tensor, vocabulary: Vocabulary) -> Tensor:
        """Return which rows are at the end of a chunk; :meth:`Tokens.reached` says more."""
        written = running.ledger.count - start
        uncertain = _entropy(running.fed.log_probs[0]) >= self.nats
        return (written >= self.longest) | ((written >= self.shortest) & uncertain.cpu())


Boundary = Tokens | Texts | Uncertain


def lines(longest: int = 64) -> Texts:
    """End chunks with lines.

    Reference: Sun et al. (2024), BBox-Adapter, searches over lines.
    """
    return Texts(("\n",), longest)


def sentences(longest: int = 64) -> Texts:
    """End chunks at full stops, question and exclamation marks, and lines.

    Any such mark counts, one in a number or an abbreviation too: what follows is not known yet.
    """
    return Texts((".", "?", "!", "\n"), longest)


def read_boundary(text: str) -> int | Boundary:
    """Read where chunks end from a word: a number of tokens, ``line``, ``sentence``, or ``entropy:NATS``.

    Raises:
        ConfigError: it is none of these.

    Example:
        >>> read_boundary("5"), read_boundary("entropy:2.5")
        (5, Uncertain(nats=2.5, shortest=1, longest=64))
    """
    named = {"line": lines, "sentence": sentences}
    if text in named:
        return named[text]()
    try:
        return Uncertain(float(text.removeprefix("entropy:"))) if text.startswith("entropy:") else int(text)
    except ValueError:
        raise ConfigError(
            given=f"chunks that end at {text!r}",
            expected="a number of tokens, line, sentence, or entropy:NATS",
            hint="5, or entropy:3.0",
        ) from None


def _at_least_one(name: str, number: int) -> None:
    if number < 1:
        raise ConfigError(given=f"{name}={number} of a chunk", expected="at least 1", hint=f"raise {name}")


def _entropy(log_probs: Tensor) -> Tensor:
    """Return the entropy of each row's next token in nats; (N, V) to (N,)."""
    probs = log_probs.softmax(-1)  # not exp(), see kl.py
    nats: Tensor = -torch.linalg.vecdot(probs, log_probs.masked_fill(probs == 0, 0.0))
    return nats


@lru_cache(maxsize=8)
def _completing(vocabulary: Vocabulary, texts: tuple[str, ...]) -> Tensor:
    """Look through the vocabulary once, not at every step."""
    return completing(vocabulary, texts)
