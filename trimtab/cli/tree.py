"""The tree of a search for a terminal: the ways to the answers that were kept, and how much there was beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text
from rich.tree import Tree

if TYPE_CHECKING:
    from trimtab.decoding.hunt import Found
    from trimtab.decoding.trace import Node


def tree_of(found: Found, *, everything: bool = False) -> Tree:
    """Return a search as a tree for the terminal.

    A line is a chunk: what became of it (``>`` went on, ``=`` is an answer, ``x`` was dropped), the score of the answer
    up to its end, and its text. The way to the best answer is bold.

    Args:
        found: by the search.
        everything: whether every chunk has its line. Otherwise only those have that lead to answers which were kept;
            chunks with no other such chunk beside them are joined in one line, and the rest is counted.
    """
    nodes = found.trace.nodes
    best = {node.number for node in found.way}
    lines = {node.number for node in nodes} if everything else best | _leading_to_answers(nodes)
    sizes = _sizes(nodes)
    below: dict[int | None, list[Node]] = {}
    for node in sorted(nodes, key=lambda node: (math.isnan(node.score), -node.score)):
        below.setdefault(node.parent, []).append(node)

    def split(number: int | None) -> tuple[list[Node], list[Node]]:
        children = below.get(number, [])
        return [each for each in children if each.number in lines], [
            each for each in children if each.number not in lines
        ]

    going, beside = split(None)
    root = Tree(Text(repr(found.best.prompt), style="bold") + _more(beside, sizes), guide_style="dim")
    waiting = [(root, going)]
    while waiting:  # not by recursion: traces are as deep as answers are long
        branch, going = waiting.pop()
        for node in going:
            run = [node]
            after, beside = split(node.number)
            while len(after) == 1 and not everything:
                run.append(after[0])
                after, more = split(run[-1].number)
                beside = [*beside, *more]
            waiting.append((branch.add(_line(run, run[-1].number in best) + _more(beside, sizes)), after))
    return root


def _leading_to_answers(nodes: Sequence[Node]) -> set[int]:
    """Return the chunks on the way to an answer that was kept."""
    found = set()
    for node in reversed(nodes):  # children come after their parents
        if (node.finish and node.kept) or node.number in found:
            found |= {node.number} if node.parent is None else {node.number, node.parent}
    return found


def _sizes(nodes: Sequence[Node]) -> list[int]:
    """Return how many chunks there are below each, itself included."""
    sizes = [1] * len(nodes)
    for node in reversed(nodes):
        if node.parent is not None:
            sizes[node.parent] += sizes[node.number]
    return sizes


def _line(run: Sequence[Node], best: bool) -> Text:
    """Show chunks that follow each other."""
    last = run[-1]
    mark = "=" if last.finish else ">" if last.kept else "x"
    style = "bold green" if best else "cyan" if last.finish and last.kept else "" if last.kept else "dim"
    # repr, so that nothing in a text reaches the terminal as a command
    return Text(f"{mark} {last.score:+.3f} {' '.join(repr(node.text) for node in run)}", style=style)


def _more(beside: Sequence[Node], sizes: Sequence[int]) -> Text:
    """Say how many chunks are not shown, and how good the best of them is."""
    if not beside:
        return Text()
    scores = [node.score for node in beside if not math.isnan(node.score)]
    best = f", best {max(scores):+.3f}" if scores else ""
    return Text(f"  (+{sum(sizes[node.number] for node in beside)} more{best})", style="dim")
