"""Finding coefficients: points are measured once, kept on disk, and serve every target.

A target says which level is wanted in each domain. Grid, coarse to fine, and a sampler that learns from what was
measured propose points; all of them are judged by one measure, which is given.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.assets.journal import Journal
from trimtab.errors import ConfigError
from trimtab.policies.knob import Knob
from trimtab.vectors.preference import Point, Preference

Target = Mapping[str, str]
"""Domain to the level that is wanted."""

Measure = Callable[[Sequence[Point]], Sequence[Preference]]


@dataclass(frozen=True)
class Trial:
    """A point and what was measured there."""

    point: Point
    found: Preference


class Trials:
    """What was measured so far, in a JSONL file, so that a search that was stopped goes on where it was.

    Args:
        path: the file.
        about: what is measured; a file of something else is refused.
        measure: measures several points together.
        at_once: how many points together.

    Raises:
        ConfigError: the file holds another search, or is damaged.
    """

    def __init__(self, path: Path, about: Mapping[str, str], measure: Measure, *, at_once: int = 32) -> None:
        self._journal, self._measure, self._at_once = Journal(path, about, "search"), measure, at_once
        try:
            kept = [Trial(row["point"], Preference(row["shares"], row["leads"])) for row in self._journal.rows]
        except (KeyError, TypeError) as error:
            raise self._journal.damaged(error) from error
        self._done = {_key(trial.point): trial for trial in kept}

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._done.values())

    def __len__(self) -> int:
        return len(self._done)

    def at(self, points: Sequence[Point]) -> list[Trial]:
        """Return the trials of points, measuring those that were not measured before."""
        fresh = {_key(point): point for point in points if _key(point) not in self._done}
        waiting = list(fresh.values())
        for start in range(0, len(waiting), self._at_once):
            some = waiting[start : start + self._at_once]
            found = [Trial(point, each) for point, each in zip(some, self._measure(some), strict=True)]
            self._journal.add({"point": dict(trial.point), **_plain(trial.found)} for trial in found)
            self._done.update({_key(trial.point): trial for trial in found})
        return [self._done[_key(point)] for point in points]

    def best(self, target: Target) -> Trial:
        """Return the trial that fits a target best; of equal ones the one closest to the base."""
        return best_of(self, target)


def best_of(trials: Iterable[Trial], target: Target) -> Trial:
    """Return the trial that fits a target best; of equal ones the one closest to the base."""
    return max(trials, key=lambda trial: (trial.found.score(target), -_size(trial.point)))


def grid(knobs: Sequence[Knob], steps: int) -> list[dict[str, float]]:
    """Return all combinations of equally spaced values, ends included.

    Args:
        knobs: with both ends of their ranges.
        steps: values a knob, at least 2.

    Raises:
        ConfigError: a range is open, or there are fewer than 2 steps.

    Example:
        >>> len(grid([Knob("a", 0, 0, 1), Knob("b", 0, -1, 1)], 3))
        9
    """
    if steps < 2:
        raise ConfigError(given=f"steps={steps}", expected="at least 2 values a knob", hint="steps=5")
    axes = [[low + (high - low) * i / (steps - 1) for i in range(steps)] for low, high in map(_range, knobs)]
    return [dict(zip((knob.name for knob in knobs), values, strict=True)) for values in itertools.product(*axes)]


def by_grid(trials: Trials, knobs: Sequence[Knob], *, steps: int) -> None:
    """Measure a grid, which serves every target."""
    trials.at(grid(knobs, steps))


def coarse_to_fine(
    trials: Trials, knobs: Sequence[Knob], targets: Sequence[Target], *, steps: int = 3, rounds: int = 2
) -> None:
    """Measure a coarse grid, then the neighbours of each target's best point at half the distance, and so on."""
    # Proposals follow from what this search has proposed, so that one that goes on proposes the same.
    seen = trials.at(grid(knobs, steps))
    spacing = {knob.name: (_range(knob)[1] - _range(knob)[0]) / (steps - 1) for knob in knobs}
    for _ in range(rounds):
        spacing = {name: width / 2 for name, width in spacing.items()}
        wanted: list[dict[str, float]] = []
        for target in targets:
            best = best_of(seen, target).point
            for knob in knobs:
                low, high = _range(knob)
                for sign in (-1, 1):
                    value = min(high, max(low, best[knob.name] + sign * spacing[knob.name]))
                    wanted.append({**best, knob.name: value})
        seen += trials.at(wanted)


def by_sampler(
    trials: Trials,
    knobs: Sequence[Knob],
    targets: Sequence[Target],
    *,
    points: int = 64,
    together: int = 8,
    seed: int = 0,
) -> None:
    """Let a tree-structured Parzen estimator propose points for each target in turn; all targets learn from each.

    Args:
        trials: what is known.
        knobs: with both ends of their ranges.
        targets: what is wanted.
        points: measured in all, those that are there included.
        together: proposed before they are measured, in one batch.
        seed: of the proposals.

    Raises:
        ConfigError: a range is open, or Optuna is not installed.

    Reference: Bergstra et al. (2011), Algorithms for Hyper-Parameter Optimization; Akiba et al. (2019), Optuna.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            given="a search by a sampler without Optuna", expected="optuna", hint="pip install 'trimtab[eval]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    ranges = {knob.name: optuna.distributions.FloatDistribution(*_range(knob)) for knob in knobs}
    for turn in itertools.count():
        if len(trials) >= points:
            return
        target = targets[turn % len(targets)]
        sampler = optuna.samplers.TPESampler(seed=seed + turn, n_startup_trials=8)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for trial in trials:
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(trial.point), distributions=dict(ranges), value=trial.found.score(target)
                )
            )
        count = min(together, points - len(trials))
        trials.at([dict(study.ask(dict(ranges)).params) for _ in range(count)])


def _range(knob: Knob) -> tuple[float, float]:
    if not abs(knob.min) + abs(knob.max) < float("inf"):
        raise ConfigError(
            given=f"the knob {knob.name} from {knob.min} to {knob.max}",
            expected="both ends of its range",
            hint="declare it with min and max, under knobs: in the policy file",
        )
    return knob.min, knob.max


def _key(point: Point) -> tuple[tuple[str, float], ...]:
    return tuple(sorted((name, round(float(value), 9)) for name, value in point.items()))


def _size(point: Point) -> float:
    return sum(value * value for value in point.values())


def _plain(found: Preference) -> dict[str, object]:
    return {
        "shares": {domain: dict(levels) for domain, levels in found.shares.items()},
        "leads": {domain: dict(levels) for domain, levels in found.leads.items()},
    }
