"""One self-contained HTML page that draws what searches tried: a column a boundary, every chunk in its place.

What is shown is decided here, how it looks in ``search_page.html.jinja``. The page needs no script and loads nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.decoding.hunt import Found
from trimtab.decoding.trace import Node
from trimtab.evaluation.page import write_page

WIDTH, HEIGHT = 168, 26
"""Of a chunk in the picture, in pixels."""

ACROSS, DOWN = 212, 34
"""From one chunk's place to the next, in pixels."""

LEFT, TOP = 30, 34
"""Of the first chunk: room for the prompt's dot and the names of the columns."""


@dataclass(frozen=True)
class Box:
    """A chunk in the picture and in the table.

    Args:
        node: what it shows.
        left: its place, in pixels.
        top: its place, in pixels.
        best: whether it is on the way to the best answer.
        share: where its score lies between the lowest and the highest of the search, from 0 to 1; 0.5 without one.
    """

    node: Node
    left: int
    top: int
    best: bool
    share: float

    @property
    def text(self) -> str:
        """Of the chunk, in one line that can be read."""
        return shown(self.node.text)

    @property
    def score(self) -> str:
        """Of the answer up to its end."""
        return signed(self.node.score)

    @property
    def state(self) -> str:
        """What became of it: "best", "answer", "lesser" (an answer that was not kept), "kept" or "dropped"."""
        if self.node.finish is None:
            return "kept" if self.node.kept else "dropped"
        return "best" if self.best else "answer" if self.node.kept else "lesser"

    @property
    def outcome(self) -> str:
        """The same in words."""
        words = {
            "best": "the best answer",
            "answer": "an answer, kept",
            "lesser": "an answer, not among the best",
            "kept": "went on" if self.node.kept == 1 else f"went on {self.node.kept} times",
            "dropped": "dropped",
        }
        ended = "" if self.node.finish in (None, "end") else f" ({self.node.finish})"
        return words[self.state] + ended

    @property
    def side(self) -> str:
        """Which half of the scores it lies in: "up", "down", or "" in the middle."""
        return "" if abs(self.share - 0.5) < 0.02 else "up" if self.share > 0.5 else "down"

    @property
    def strength(self) -> str:
        """How strongly it is coloured, from 0 to 1."""
        return f"{abs(self.share - 0.5) * 2:.2f}"


@dataclass(frozen=True)
class Line:
    """A curve from a chunk to one that continues it.

    Args:
        path: as SVG writes it.
        state: "best", "kept" or "dropped", of the chunk it leads to.
    """

    path: str
    state: str


@dataclass(frozen=True)
class Board:
    """The picture of one search.

    Args:
        found: by the search.
        boxes: its chunks, in the order they were proposed.
        lines: between them, faint ones first.
        lowest: score, ready to be shown.
        highest: score, ready to be shown.
    """

    found: Found
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]
    lowest: str
    highest: str

    @property
    def prompt(self) -> str:
        """What was answered."""
        return self.found.best.prompt

    @property
    def columns(self) -> list[int]:
        """Left edge of each column, in pixels."""
        return [LEFT + ACROSS * depth for depth in range(1 + max(box.node.depth for box in self.boxes))]

    @property
    def width(self) -> int:
        """Of the picture, in pixels."""
        return self.columns[-1] + WIDTH + LEFT // 2

    @property
    def height(self) -> int:
        """Of the picture, in pixels."""
        return max(box.top for box in self.boxes) + DOWN


def write_search_page(target: Path, found: Sequence[Found], *, facts: Mapping[str, str] | None = None) -> Path:
    """Draw searches on a page: a column a boundary, chunks coloured by their scores, the ways that went on in bold.

    Args:
        target: the HTML file; it is replaced if it exists.
        found: what was found for each prompt, at least one.
        facts: what else the page says, by name.

    Returns:
        ``target``.

    Raises:
        ConfigError: jinja2 is not installed.
        RunError: the file cannot be written.
    """
    boards = [board_of(each) for each in found]
    sizes = {"Chunks": sum(len(board.boxes) for board in boards), "Tokens": sum(each.trace.tokens for each in found)}
    content = {
        "boards": boards,
        "facts": {**(facts or {}), **{name: f"{size:,}" for name, size in sizes.items()}},
        "width": WIDTH,
        "height": HEIGHT,
        "left": LEFT,
        "top": TOP,
        "signed": signed,
    }
    return write_page(target, "search_page.html.jinja", content)


def board_of(found: Found) -> Board:
    """Lay the chunks of a search out: columns by boundary, those of one parent together, best first, and no crossings.

    Example:
        >>> from trimtab.decoding import chunk_beam, search
        >>> from trimtab.policies.toy import Table
        >>> from trimtab.values import LogRatio
        >>> table = Table.random(4, seed=0)
        >>> found = search(table, "t1", LogRatio(table, table), chunk_beam(2, 2, 1), max_new_tokens=3, seed=0)
        >>> board = board_of(found[0])
        >>> len(board.columns), len(board.boxes)
        (3, 12)
    """
    nodes = found.trace.nodes
    rows = _rows(nodes)
    best = {node.number for node in found.way}
    scores = [node.score for node in nodes if math.isfinite(node.score)]
    lowest, highest = (min(scores), max(scores)) if scores else (math.nan, math.nan)
    boxes = tuple(
        Box(
            node,
            LEFT + ACROSS * node.depth,
            TOP + DOWN * rows[node.number],
            node.number in best,
            _share(node.score, lowest, highest),
        )
        for node in nodes
    )
    lines = sorted((_line(box, boxes) for box in boxes), key=lambda line: ("dropped", "kept", "best").index(line.state))
    return Board(found, boxes, tuple(lines), signed(lowest), signed(highest))


def _rows(nodes: Sequence[Node]) -> list[int]:
    """Return each chunk's row in its column: parents in their order, and the children of each by score."""
    rows = [0] * len(nodes)
    by_depth: dict[int, list[Node]] = {}
    for node in nodes:
        by_depth.setdefault(node.depth, []).append(node)
    for depth in sorted(by_depth):
        order = sorted(
            by_depth[depth],
            key=lambda node: (-1 if node.parent is None else rows[node.parent], math.isnan(node.score), -node.score),
        )
        for row, node in enumerate(order):
            rows[node.number] = row
    return rows


def _share(score: float, lowest: float, highest: float) -> float:
    """Return where a score lies among the finite ones."""
    if math.isnan(score) or not lowest < highest:
        return 0.5
    return min(1.0, max(0.0, (score - lowest) / (highest - lowest)))


def _line(box: Box, boxes: Sequence[Box]) -> Line:
    """Return the curve to a chunk from its parent, or from the prompt."""
    parent = None if box.node.parent is None else boxes[box.node.parent]
    x0, y0 = (9, TOP + HEIGHT // 2) if parent is None else (parent.left + WIDTH, parent.top + HEIGHT // 2)
    x1, y1 = box.left, box.top + HEIGHT // 2
    bend = (x0 + x1) // 2
    state = "best" if box.best else "kept" if box.node.kept else "dropped"
    return Line(f"M{x0} {y0}C{bend} {y0} {bend} {y1} {x1} {y1}", state)


def signed(score: float) -> str:
    """Show a score.

    Example:
        >>> signed(1.5), signed(float("nan"))
        ('+1.500', 'no score')
    """
    return "no score" if math.isnan(score) else f"{score:+.3f}".replace("-", "\N{MINUS SIGN}")


def shown(text: str) -> str:
    """Show a text in one line: line ends as arrows, and what cannot be printed by its code.

    Example:
        >>> shown("one\\ntwo\\x1b")
        'one↵two\\\\x1b'
    """
    return "".join(each if each.isprintable() else "↵" if each == "\n" else repr(each)[1:-1] for each in text)
