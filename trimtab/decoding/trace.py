"""What a search has done: what was proposed, what it was worth, and what was kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trimtab.decoding.answer import FinishReason


@dataclass(frozen=True)
class Node:
    """One chunk that was proposed.

    Args:
        number: its place in the trace.
        parent: the chunk it continues, None at the start.
        depth: the boundary it ends at, from 0.
        text: of the chunk.
        tokens: number of its tokens.
        score: of the answer up to its end; NaN where it could not be scored.
        kept: how many beams go on from it, or 1 for a finished answer that is still among the best.
        finish: why the answer ends here, None where it does not.
    """

    number: int
    parent: int | None
    depth: int
    text: str
    tokens: int
    score: float
    kept: int
    finish: FinishReason | None


@dataclass(frozen=True)
class Trace:
    """The tree of all chunks of one search, in the order they were proposed.

    Args:
        nodes: parents come before their children.
    """

    nodes: tuple[Node, ...]

    @property
    def tokens(self) -> int:
        """Tokens that were proposed, those of rejected chunks included."""
        return sum(node.tokens for node in self.nodes)

    def children(self, parent: int | None) -> list[Node]:
        """Return the chunks that continue one, best first."""
        return _best_first([node for node in self.nodes if node.parent == parent])

    def walk(self, parent: int | None = None, level: int = 0) -> Iterator[tuple[int, Node]]:
        """Yield every chunk with its level, each before its children."""
        # Not by recursion, and not through children(): token-wise traces are as deep as answers are long.
        below: dict[int | None, list[Node]] = {}
        for node in self.nodes:
            below.setdefault(node.parent, []).append(node)
        waiting = [(level, node) for node in reversed(_best_first(below.get(parent, [])))]
        while waiting:
            level, node = waiting.pop()
            yield level, node
            waiting += [(level + 1, child) for child in reversed(_best_first(below.get(node.number, [])))]

    def __str__(self) -> str:
        """The tree as text: a line a chunk; ``>`` goes on, ``=`` is finished, ``x`` was dropped."""
        lines = []
        for level, node in self.walk():
            mark = "=" if node.finish else ">" if node.kept else "x"
            lines.append(f"{'  ' * level}{mark} {node.score:+.3f} {node.text!r}")
        return "\n".join(lines)


def _best_first(nodes: Sequence[Node]) -> list[Node]:
    return sorted(nodes, key=lambda node: (math.isnan(node.score), -node.score))
