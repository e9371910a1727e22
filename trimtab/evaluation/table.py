"""The table of a task: every policy's numbers with intervals, and how far each is from the base on the same prompts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trimtab.evaluation.bootstrap import Difference, Interval, Tally, difference, ratio
from trimtab.evaluation.compare import Comparison, Result
from trimtab.evaluation.markdown import markdown_table
from trimtab.evaluation.measure import Group, Measure, Overall
from trimtab.evaluation.plain import plain


@dataclass(frozen=True)
class Line:
    """What one policy measured.

    Args:
        name: of the policy.
        numbers: measure to its value and interval; None where it applied to no prompt.
        leads: measure to the difference to the base; None for the base itself, and where there is no number.
        unscored: scorer to how many answers it had no score for.
        overall: name to a number of all answers together.
    """

    name: str
    numbers: Mapping[str, Interval | None]
    leads: Mapping[str, Difference | None]
    unscored: Mapping[str, int]
    overall: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """The numbers of several policies on the same prompts.

    Args:
        measures: what was measured, in order.
        lines: one a policy; the first is the base.
        overall: what was measured of all answers together.
    """

    measures: tuple[Measure, ...]
    lines: tuple[Line, ...]
    overall: tuple[Overall, ...] = ()

    @property
    def columns(self) -> tuple[Measure | Overall, ...]:
        """Everything that was measured, in the order of the cells."""
        return (*self.measures, *self.overall)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON; None stands for numbers that are not finite."""
        notes = [{"name": each.name, "note": each.note, "better": each.better} for each in self.columns]
        return {"measures": notes, "policies": [plain(asdict(line)) for line in self.lines]}

    def cells(self, line: Line) -> list[str]:
        """Return a policy's numbers ready to be shown; a star marks a certain difference to the base."""
        whole = [_shown(line.overall[each.name], each.digits) for each in self.overall]
        return [*(_cell(measure, line) for measure in self.measures), *whole]

    def markdown(self) -> str:
        """Return a table with a line a policy."""
        head = ["policy", *(f"{each.name}{_arrow(each)}" for each in self.columns)]
        return markdown_table(head, ([line.name, *self.cells(line)] for line in self.lines))


def tabulate(
    comparison: Comparison,
    measures: Sequence[Measure],
    columns: Mapping[str, Sequence[object]],
    overall: Sequence[Overall] = (),
) -> Table:
    """Measure what a comparison made.

    Args:
        comparison: the answers, scored.
        measures: what is reported of them.
        columns: further columns of the prompts, as the scorers received them.
        overall: what is reported of all answers together.

    Returns:
        A line a policy, in their order.

    Example:
        >>> from trimtab.decoding.request import Settings
        >>> from trimtab.evaluation import compare
        >>> from trimtab.evaluation.measure import LENGTH
        >>> from trimtab.policies.toy import Table as Toy
        >>> from trimtab.rewards import Keywords, Length
        >>> coin = Toy.of({"": {"heads": 0.5, "tails": 0.5}})
        >>> settings, judge = Settings(max_new_tokens=4), Keywords(("heads",))
        >>> found = compare({"coin": coin}, ["heads"], reward=Length(4), judges=[judge], settings=settings)
        >>> print(tabulate(found, [LENGTH], {}).markdown())
        | policy | tokens |
        |---|---|
        | coin | 4.0 [4.0, 4.0] |
        <BLANKLINE>
    """
    grouped = {result.name: groups(comparison, result, columns) for result in comparison.results}
    tallies = {
        name: {each.name: [each.tally(group) for group in own] for each in measures} for name, own in grouped.items()
    }
    table = table_of(measures, tallies, {result.name: result.unscored for result in comparison.results})
    lines = [
        replace(line, overall={each.name: each.value(grouped[line.name]) for each in overall}) for line in table.lines
    ]
    return replace(table, lines=tuple(lines), overall=tuple(overall))


def table_of(
    measures: Sequence[Measure],
    tallies: Mapping[str, Mapping[str, Sequence[Tally]]],
    unscored: Mapping[str, Mapping[str, int]],
) -> Table:
    """Return the table of what prompts gave.

    Args:
        measures: what was measured.
        tallies: policy to measure to total and count of every prompt; the first policy is the base.
        unscored: policy to scorer to how many answers it had no score for.
    """
    base, lines = next(iter(tallies.values())), []
    for name, own in tallies.items():
        numbers = {each.name: _number(each, own[each.name]) for each in measures}
        leads: dict[str, Difference | None] = {
            each.name: _lead(each, own[each.name], base[each.name]) if own is not base else None for each in measures
        }
        lines.append(Line(name, numbers, leads, dict(unscored[name])))
    return Table(tuple(measures), tuple(lines))


def groups(comparison: Comparison, result: Result, columns: Mapping[str, Sequence[object]]) -> list[Group]:
    """Return a policy's answers prompt by prompt."""
    n, scores = comparison.n, {comparison.reward: result.rewards, **result.judged}
    found = []
    for place, prompt in enumerate(comparison.prompts):
        cut = slice(place * n, (place + 1) * n)
        row = {"prompt": prompt, **{name: values[place] for name, values in columns.items()}}
        scored = {name: each[cut] for name, each in scores.items()}
        chosen = result.searched or result.held or result.kl is None
        found.append(Group(row, result.answers[cut], scored, chosen))
    return found


def _number(measure: Measure, tallies: Sequence[Tally]) -> Interval | None:
    return ratio(tallies, transform=measure.transform) if any(count for _, count in tallies) else None


def _lead(measure: Measure, tallies: Sequence[Tally], base: Sequence[Tally]) -> Difference | None:
    if any(count for _, count in tallies) and any(count for _, count in base):
        return difference(tallies, base, transform=measure.transform)
    return None


def _cell(measure: Measure, line: Line) -> str:
    found, lead = line.numbers[measure.name], line.leads[measure.name]
    if found is None:
        return "\N{EN DASH}"
    low, high = (_shown(end, measure.digits) for end in (found.low, found.high))
    star = "*" if lead is not None and lead.certain else ""
    return f"{_shown(found.mean, measure.digits)}{star} [{low}, {high}]"


def _shown(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else str(value)


def _arrow(measure: Measure | Overall) -> str:
    return {"higher": " \N{UPWARDS ARROW}", "lower": " \N{DOWNWARDS ARROW}", "neither": ""}[measure.better]
