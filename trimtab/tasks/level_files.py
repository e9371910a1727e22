"""Triples of preference levels as files: preference pairs to train on, and the triples themselves to measure with."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from trimtab.policies.lm import LM
from trimtab.rewards.level import LEVELS, Domain, Level
from trimtab.tasks.levels import Triple, chat_prompt
from trimtab.training.rows import read_rows, text_of

_PAIRS = list(itertools.combinations(LEVELS, 2))


def write_pairs(triples: Sequence[Triple], base: LM, path: Path, *, held: Sequence[Triple] = ()) -> int:
    """Write the preference pairs of triples, expert > generic > avoidance, in the columns that training reads.

    Each triple gives three pairs: expert over generic, expert over avoidance, and generic over avoidance. Prompts are
    in the model's chat format, and ask for no level.

    A held triple gives one pair of its levels, the kinds taking turns, in both orders: of the two, a loss that wants a
    margin has its minimum where the model prefers neither more than it did. So what is learned about the others stays
    with them.

    Args:
        triples: what to write.
        base: the model that will learn from them.
        path: a .jsonl file; what is there is replaced.
        held: of other domains, whose levels are to be preferred as before. Rows of the two kinds are mixed
            evenly.

    Returns:
        How many pairs there are.

    Raises:
        ModelError: the model has no chat template.
    """

    def pair(each: Triple, better: Level, worse: Level) -> dict[str, str]:
        return {"prompt": chat_prompt(base, each.query), "chosen": each.answer(better), "rejected": each.answer(worse)}

    own = [pair(each, better, worse) for each in triples for better, worse in _PAIRS]
    kept = [
        pair(each, *order)
        for each, (better, worse) in zip(held, itertools.cycle(_PAIRS), strict=False)
        for order in ((better, worse), (worse, better))
    ]
    # Each kind is spread over the whole file, so that what training holds out at its end is of both.
    placed = [(place / len(rows), row) for rows in (own, kept) for place, row in enumerate(rows)]
    return _write(path, (row for _, row in sorted(placed, key=lambda each: each[0])))


def write_wanted_pairs(
    triples: Mapping[Domain, Sequence[Triple]], wanted: Mapping[Domain, Level], base: LM, path: Path
) -> int:
    """Write the preference pairs of a combination: in every domain the wanted level over each of the two others.

    The domains take turns, so that any head of the file is about all of them.

    Args:
        triples: domain to what is written.
        wanted: domain to its level.
        base: the model that will learn from them.
        path: a .jsonl file; what is there is replaced.

    Returns:
        How many pairs there are.

    Raises:
        ModelError: the model has no chat template.
    """
    columns = [
        [
            {"prompt": chat_prompt(base, each.query), "chosen": each.answer(level), "rejected": each.answer(other)}
            for each in triples[domain]
            for other in LEVELS
            if other != level
        ]
        for domain, level in wanted.items()
    ]
    return _write(path, (row for turn in itertools.zip_longest(*columns) for row in turn if row is not None))


def write_triples(triples: Sequence[Triple], path: Path) -> int:
    """Write triples, one JSON object a line with the columns query, expert, generic and avoidance.

    Args:
        triples: what to write.
        path: a .jsonl file; what is there is replaced.

    Returns:
        How many there are.
    """
    return _write(path, map(asdict, triples))


def read_triples(path: Path) -> list[Triple]:
    """Read what :func:`write_triples` wrote.

    Args:
        path: a .jsonl file.

    Raises:
        ConfigError: the file is missing, empty or broken; the message has the line.
    """
    return [
        Triple(*(text_of(row, number, column, str(path), "the column") for column in ("query", *LEVELS)))
        for number, row in read_rows(str(path), "train", text_column="query")
    ]


def _write(path: Path, rows: Iterable[Mapping[str, str]]) -> int:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(lines)
