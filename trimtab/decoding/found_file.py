"""What a search found as plain values for JSON, and read back with checks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from trimtab.decoding.answer import Answer
from trimtab.decoding.hunt import Found
from trimtab.decoding.trace import Node, Trace
from trimtab.errors import ConfigError

_ANSWER, _NODE, _KL = TypeAdapter(Answer), TypeAdapter(Node), TypeAdapter(tuple[float, ...])
_T = TypeVar("_T")


def found_to_dict(found: Found) -> dict[str, Any]:
    """Return what was found as plain values; a score that is not there is None.

    Example:
        >>> lost = Node(0, None, 0, "a", 1, math.nan, 0, "end")
        >>> found_to_dict(Found((), Trace((lost,))))["trace"][0]["score"] is None
        True
    """
    return {
        "hypotheses": [{**asdict(answer), "score": score} for answer, score in found.hypotheses],
        "trace": [{**asdict(node), "score": _written(node.score)} for node in found.trace.nodes],
        "kl": list(found.kl),
    }


def found_from_dict(given: object) -> Found:
    """Return what was found, from what :func:`found_to_dict` made of it.

    Raises:
        ConfigError: it is something else; the message names the hypothesis or the chunk, and what is wrong with it.

    Example:
        >>> node = Node(0, None, 0, " yes", 1, 0.5, 1, "end")
        >>> answer = Answer("Well?", " yes", (3,), (-0.1,), (-0.1,), (0.0,), "end")
        >>> found = Found(((answer, 0.5),), Trace((node,)), (0.2,))
        >>> found_from_dict(found_to_dict(found)) == found
        True
    """
    if not isinstance(given, Mapping) or not {"hypotheses", "trace", "kl"} <= given.keys():
        raise _wrong("no search", "hypotheses, a trace and kl", "write it with trimtab generate --search METHOD --json")
    hypotheses = [_hypothesis(place, each) for place, each in enumerate(_listed(given, "hypotheses"))]
    nodes: list[Node] = []
    for each in _listed(given, "trace"):
        nodes.append(_node(each, nodes))
    found = Found(tuple(hypotheses), Trace(tuple(nodes)), _read(_KL, given["kl"], "kl"))
    if not hypotheses or not found.way:
        raise _wrong("no answer that ends a chunk of the trace with its score", "at least one")
    return found


def _listed(given: Mapping[str, Any], name: str) -> Sequence[object]:
    """Return a list under a name."""
    if not isinstance(given[name], list):
        raise _wrong(f"{name}: {given[name]!r:.60}", "a list")
    found: list[object] = given[name]
    return found


def _hypothesis(place: int, given: object) -> tuple[Answer, float]:
    """Read a finished answer with its score."""
    where = f"hypothesis {place}"
    answer = _read(_ANSWER, given, where)
    score = given.get("score") if isinstance(given, Mapping) else None
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise _wrong(f"{where}: score {score!r:.60}", "a number")
    return answer, float(score)


def _node(given: object, before: Sequence[Node]) -> Node:
    """Read a chunk, which has to fit those before it."""
    where = f"chunk {len(before)} of the trace"
    if isinstance(given, Mapping) and given.get("score", 0.0) is None:
        given = {**given, "score": math.nan}
    node = _read(_NODE, given, where)
    if node.number != len(before):
        raise _wrong(f"{where}: number {node.number}", f"number {len(before)}, its place")
    if node.parent is not None and not 0 <= node.parent < len(before):
        raise _wrong(f"{where}: parent {node.parent}", "a chunk before it, or none")
    parent = None if node.parent is None else before[node.parent]
    depth = 0 if parent is None else parent.depth + 1
    if node.depth != depth:
        raise _wrong(f"{where}: depth {node.depth}", f"depth {depth}, one below its parent")
    if parent is not None and parent.finish is not None:
        raise _wrong(f"{where}: parent {node.parent}, where an answer ends", "a chunk that goes on")
    if node.tokens < 0 or node.kept < 0:
        raise _wrong(f"{where}: {node.tokens} tokens, kept {node.kept}", "numbers of at least 0")
    return node


def _read(kind: TypeAdapter[_T], given: object, where: str) -> _T:
    """Read one record."""
    try:
        return kind.validate_python(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"])) or "the whole"
        expected = first["msg"].removeprefix("Input should be ")
        raise _wrong(f"{where}: {field} {first['input']!r:.60}", expected) from error


def _written(score: float) -> float | None:
    return None if math.isnan(score) else score


def _wrong(given: str, expected: str, hint: str = "write the file again, and do not edit it") -> ConfigError:
    return ConfigError(given=given, expected=expected, hint=hint)
