"""A value that says again what another one said, so that a search can be timed without what its scores cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from trimtab.policies.base import Leaf, Prompt
from trimtab.policies.vocabulary import Vocabulary
from trimtab.values.value import Chunk, Granularity, Value, ValueState


@dataclass(frozen=True)
class Tape:
    """Scores in the order in which they were given."""

    scores: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Recorded:
    """A value whose scores are written down.

    Args:
        value: whose.
        tape: where to.
    """

    value: Value
    tape: Tape

    @property
    def granularity(self) -> Granularity:
        """The value's."""
        return self.value.granularity

    @property
    def additive(self) -> bool:
        """The value's."""
        return self.value.additive

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """The value's."""
        return self.value.leaves

    def watched(self, running: Sequence[Leaf]) -> tuple[Leaf, ...]:
        """Return the value's."""
        return self.value.watched(running)

    def start(self, prompts: Sequence[Prompt], vocabulary: Vocabulary, watched: Sequence[Leaf]) -> _Recording:
        """Begin with one row a prompt."""
        return _Recording(self.value.start(prompts, vocabulary, watched), self.tape)


@dataclass(frozen=True)
class _Recording:
    state: ValueState
    tape: Tape

    def select(self, rows: Tensor) -> _Recording:
        return _Recording(self.state.select(rows), self.tape)

    def extend(self, chunk: Chunk) -> tuple[Tensor, _Recording]:
        scores, state = self.state.extend(chunk)
        self.tape.scores.append(scores)
        return scores, _Recording(state, self.tape)

    def ahead(self, tokens: Tensor, heard: Mapping[Leaf, Tensor]) -> Tensor | None:
        return self.state.ahead(tokens, heard)


@dataclass(frozen=True)
class Replayed:
    """The scores of a tape, for the very search that was recorded.

    Args:
        tape: what was said.
    """

    tape: Tape

    @property
    def granularity(self) -> Granularity:
        """Every prefix that was scored."""
        return "prefix"

    @property
    def additive(self) -> bool:
        """Nothing is known of tokens."""
        return False

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """None."""
        return ()

    def watched(self, running: Sequence[Leaf]) -> tuple[Leaf, ...]:
        """Return nothing."""
        return ()

    def start(self, prompts: Sequence[Prompt], vocabulary: Vocabulary, watched: Sequence[Leaf]) -> _Replaying:
        """Begin at the start of the tape."""
        return _Replaying(self.tape, 0)


@dataclass(frozen=True)
class _Replaying:
    tape: Tape
    place: int

    def select(self, rows: Tensor) -> _Replaying:
        return self

    def extend(self, chunk: Chunk) -> tuple[Tensor, _Replaying]:
        return self.tape.scores[self.place], _Replaying(self.tape, self.place + 1)

    def ahead(self, tokens: Tensor, heard: Mapping[Leaf, Tensor]) -> None:
        return None
