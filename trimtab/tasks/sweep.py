"""Grids of knob values: every point of every policy at a task, many points in one batch, kept as they are measured.

The points of a policy share the random numbers of their prompts, and none depends on which others are in its batch; so
a sweep that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab.assets.journal import Journal
from trimtab.decoding.generate import requests_of, to_answer
from trimtab.decoding.pool import decode
from trimtab.errors import ConfigError
from trimtab.evaluation.bootstrap import Tally
from trimtab.evaluation.compare import Comparison, measure
from trimtab.evaluation.frontier import Point
from trimtab.evaluation.metrics import mean_kl
from trimtab.evaluation.player import Made
from trimtab.evaluation.table import Table, groups, table_of
from trimtab.policies.base import Policy
from trimtab.tasks.contest import Conditions
from trimtab.tasks.task import Task
from trimtab.training.rollouts import columns_of

ROWS = 512
"""Answers a batch: enough to keep a pool full, and few enough that little is lost when a sweep is stopped."""

Knobs = Mapping[str, float]


@dataclass(frozen=True)
class Swept:
    """A point that was measured.

    Args:
        policy: as the sweep names it.
        knobs: their values.
        tallies: measure to total and count of every prompt.
        unscored: scorer to how many answers it had no score for.
    """

    policy: str
    knobs: Knobs
    tallies: Mapping[str, Sequence[Tally]]
    unscored: Mapping[str, int]

    @property
    def label(self) -> str:
        """The knob values in one line."""
        return ", ".join(f"{name}={value:g}" for name, value in self.knobs.items())

    @property
    def name(self) -> str:
        """Policy and knob values."""
        return f"{self.policy} ({self.label})" if self.knobs else self.policy


class Points:
    """What a sweep has measured, kept in a file.

    Args:
        path: of the file; made where it is missing.
        about: what the points depend on beside policy and knobs.

    Raises:
        ConfigError: the file is damaged, or holds a sweep of something else.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self._journal = Journal(path, about, "sweep")
        try:
            kept = [Swept(**row) for row in self._journal.rows]
        except TypeError as error:
            raise self._journal.damaged(error) from error
        self._done = {_key(each.policy, each.knobs): each for each in kept}

    def get(self, policy: str, knobs: Knobs) -> Swept | None:
        """Return a point if it was measured."""
        return self._done.get(_key(policy, knobs))

    def add(self, points: Sequence[Swept]) -> None:
        """Keep points."""
        self._journal.add(map(vars, points))
        self._done |= {_key(each.policy, each.knobs): each for each in points}


def grid(axes: Mapping[str, Sequence[float]]) -> list[dict[str, float]]:
    """Return every combination of knob values.

    Example:
        >>> grid({"strength": [0, 1], "care": [0.5]})
        [{'strength': 0, 'care': 0.5}, {'strength': 1, 'care': 0.5}]
    """
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def sweep(
    task: Task,
    policies: Mapping[str, Policy],
    axes: Mapping[str, Sequence[float]],
    conditions: Conditions,
    kept: Points,
    *,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Swept]:
    """Measure every point of a grid; a policy takes the knobs it has, and one without any has a single point.

    Args:
        task: says what is measured.
        policies: by name; the first is the base.
        axes: knob to its values.
        conditions: the same for all points; its own knobs hold for those that are not swept.
        kept: what was measured; it is not measured again, and what is measured is added.
        progress: told which points are next.

    Raises:
        ConfigError: a knob belongs to no policy.
        KnobError: a value is out of its knob's range.
    """
    known = {knob.name for policy in policies.values() for knob in policy.knobs}
    if unknown := [name for name in axes if name not in known]:
        raise ConfigError(
            given=f"values for the knob {unknown[0]!r}",
            expected=f"one of {', '.join(sorted(known)) or 'no knobs: no policy has any'}",
            hint="check the name, or put the knob into the policy: base * guide^strength",
        )
    found = []
    for name, policy in policies.items():
        own = {knob.name: axes[knob.name] for knob in policy.knobs if knob.name in axes}
        points = grid(own)
        waiting = [point for point in points if kept.get(name, point) is None]
        size = max(1, ROWS // (len(conditions.rows) * conditions.n))
        for start in range(0, len(waiting), size):
            some = waiting[start : start + size]
            progress(f"{name}: {len(some)} of {len(waiting) - start} points")
            kept.add(_measured(task, name, policy, some, conditions))
        found += [each for point in points if (each := kept.get(name, point)) is not None]
    return found


def tabulated(task: Task, judges: Sequence[str], points: Sequence[Swept]) -> Table:
    """Return the table of a sweep, whose first point is the base."""
    tallies = {each.name: each.tallies for each in points}
    return table_of(task.measures(judges), tallies, {each.name: each.unscored for each in points})


def frontier(table: Table, points: Sequence[Swept], measured: str) -> list[Point]:
    """Return the points over KL.

    Args:
        table: of the sweep.
        points: of the sweep.
        measured: name of the measure that stands for what is wished.
    """
    lines = {line.name: line for line in table.lines}
    found = []
    for each in points:
        kl, score = (lines[each.name].numbers[name] for name in ("KL", measured))
        if kl is not None and score is not None:
            found.append(Point(each.policy, each.label, kl.mean, score))
    return found


def _measured(task: Task, name: str, policy: Policy, points: Sequence[Knobs], conditions: Conditions) -> list[Swept]:
    """Answer all prompts at several points in one batch, and count what every prompt gives."""
    prompts = [row["prompt"] for row in conditions.rows]
    columns, n = columns_of(list(conditions.rows)), conditions.n
    names = {knob.name for knob in policy.knobs}
    fixed = {name: value for name, value in conditions.knobs.items() if name in names}
    started, per_point = time.perf_counter(), len(prompts) * n
    requests = [each for point in points for each in requests_of(policy.vocabulary, prompts, n, {**fixed, **point})]
    rows = decode(policy, requests, conditions.settings)
    seconds = (time.perf_counter() - started) / len(points)
    repeated = {key: [value for value in values for _ in range(n)] for key, values in columns.items()}
    asked, found = [prompt for prompt in prompts for _ in range(n)], []
    for place, point in enumerate(points):
        own = rows[place * per_point : (place + 1) * per_point]
        answers = [
            to_answer(row, prompt, policy.vocabulary, conditions.settings)
            for row, prompt in zip(own, asked, strict=True)
        ]
        made = Made(answers, sum(len(each.token_ids) for each in answers), seconds, searched=False, kl=mean_kl(answers))
        result = measure(name, str(policy), made, (conditions.reward, conditions.judges), repeated)
        judges = tuple(judge.name for judge in conditions.judges)
        alone = Comparison(
            (result,), conditions.reward.name, judges, tuple(prompts), n, conditions.settings, policy.vocabulary
        )
        grouped = groups(alone, result, columns)
        tallies = {each.name: [each.tally(group) for group in grouped] for each in task.measures(judges)}
        found.append(Swept(name, dict(point), tallies, result.unscored))
    return found


def _key(policy: str, knobs: Knobs) -> str:
    return json.dumps([policy, {name: float(value) for name, value in sorted(knobs.items())}])
