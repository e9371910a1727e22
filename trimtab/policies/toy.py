"""Exact table policies over a handful of tokens: for tests, documentation and learning the algebra.

A table gives the next-token distribution after each suffix of the sequence so far; the longest suffix that the table
knows wins, and "" is the suffix of everything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.policies.base import Leaf, Policy, Prompt
from trimtab.policies.knob import KnobValues
from trimtab.policies.vocabulary import Vocabulary


@dataclass(frozen=True)
class TableState:
    """The tokens each row has been fed."""

    tables: tuple[Table, ...]
    prefixes: tuple[tuple[int, ...], ...]

    def select(self, rows: Tensor) -> TableState:
        """Keep these rows, in this order."""
        return TableState(self.tables, tuple(self.prefixes[row] for row in rows.tolist()))

    def rollback(self, dropped: Tensor) -> TableState:
        """Forget the last tokens of each row."""
        kept = (p[: len(p) - d] for p, d in zip(self.prefixes, dropped.tolist(), strict=True))
        return TableState(self.tables, tuple(kept))

    def join(self, other: TableState) -> TableState:
        """Append the rows of another state."""
        return TableState(self.tables, self.prefixes + other.prefixes)


class _TableHost:
    """Looks prefixes up; has no weights, so one serves every table."""

    def init(self, leaves: Sequence[Table], prompts: Sequence[Prompt], knobs: KnobValues) -> tuple[Tensor, TableState]:
        state = TableState(tuple(leaves), tuple(tuple(prompt) for prompt in prompts))
        return torch.stack([torch.stack([table.row(p) for p in state.prefixes]) for table in leaves]), state

    def step(self, state: TableState, tokens: Tensor) -> tuple[Tensor, TableState]:
        rows = list(zip(state.prefixes, tokens.tolist(), strict=True))
        width = tokens.shape[1]
        if width == 0:
            return torch.zeros(len(state.tables), len(rows), 0, state.tables[0].vocabulary.size), state
        log_probs = [
            [torch.stack([table.row((*prefix, *block[: t + 1])) for t in range(width)]) for prefix, block in rows]
            for table in state.tables
        ]
        fed = TableState(state.tables, tuple((*prefix, *block) for prefix, block in rows))
        return torch.stack([torch.stack(table) for table in log_probs]), fed


_HOST = _TableHost()


@dataclass(frozen=True)
class Table(Leaf):
    """A leaf whose distributions are written down.

    Args:
        tokens: the vocabulary.
        rows: (suffix as token ids, probability of each token), longest suffixes first.
        label: what messages call it.

    Example:
        >>> weather = Table.of({"": {"sun": 0.6, "rain": 0.4}, "rain": {"sun": 0.1, "rain": 0.9}})
        >>> weather.next_log_probs(["sun", "sun rain"]).exp()
        tensor([[0.6000, 0.4000],
                [0.1000, 0.9000]])
    """

    tokens: Vocabulary
    rows: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]
    label: str

    @staticmethod
    def of(table: Mapping[str, Mapping[str, float]], *, end: str | None = None, name: str = "table") -> Table:
        """Build a table from texts.

        Args:
            table: suffix (words split at spaces, "" for any) to the probability of each next word.
            end: the word that ends an answer.
            name: what messages call it.

        Raises:
            ConfigError: a row is not a distribution, a suffix holds a word without probability, or "" has no row.
        """
        words = list(dict.fromkeys(word for row in table.values() for word in row))
        vocabulary = Vocabulary.of_pieces(words, end=end)
        _check(table, words)
        rows = [
            (tuple(words.index(word) for word in suffix.split()), tuple(row.get(word, 0.0) for word in words))
            for suffix, row in table.items()
        ]
        return Table(vocabulary, tuple(sorted(rows, key=lambda row: -len(row[0]))), name)

    @staticmethod
    def random(size: int, *, seed: int, contexts: bool = True, end: str | None = None, name: str = "random") -> Table:
        """Build a table with random distributions, one for each last token (or one for all).

        Args:
            size: number of tokens V, named t0, t1, ...
            seed: of the random numbers.
            contexts: whether the distribution depends on the last token.
            end: the word that ends an answer.
            name: what messages call it.
        """
        generator = torch.Generator().manual_seed(seed)
        words = [f"t{i}" for i in range(size)]
        suffixes = ["", *words] if contexts else [""]
        probabilities = torch.randn(len(suffixes), size, generator=generator, dtype=torch.float64).softmax(-1)
        return Table.of(
            {s: dict(zip(words, p.tolist(), strict=True)) for s, p in zip(suffixes, probabilities, strict=True)},
            end=end,
            name=name,
        )

    def row(self, prefix: Sequence[int]) -> Tensor:
        """Return the log-probabilities after a prefix, in nats, shape (V,)."""
        for suffix, probabilities in self.rows:
            if tuple(prefix[len(prefix) - len(suffix) :]) == suffix:
                return torch.tensor(probabilities, dtype=torch.float64).log().float()
        raise AssertionError("a table has a row for the empty suffix")

    @property
    def vocabulary(self) -> Vocabulary:
        """The words of the table."""
        return self.tokens

    @property
    def reference(self) -> Policy:
        """A table is its own reference."""
        return self

    @property
    def host(self) -> _TableHost:
        """The look-up that all tables share."""
        return _HOST

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.label

    @property
    def context_length(self) -> int | None:
        """A table reads any length."""
        return None


def _check(table: Mapping[str, Mapping[str, float]], words: Sequence[str]) -> None:
    """Refuse a table that is not a policy; NaN passes, so that tests can see what a broken factor does."""
    for suffix, row in table.items():
        unknown = [word for word in suffix.split() if word not in words]
        if unknown or min(row.values()) < 0 or abs(sum(row.values()) - 1.0) > 1e-4:
            raise ConfigError(
                given=f"the row {suffix!r}: {dict(row)}",
                expected=f"a suffix of the words {list(words)}, and probabilities that sum to 1",
                hint="repair that row",
            )
    if "" not in table:
        raise ConfigError(
            given=f"a table with rows for {list(table)} only",
            expected='a row for the suffix "", which stands for everything else',
            hint='add {"": {...}}',
        )
