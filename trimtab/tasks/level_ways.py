"""Ways to a combination of levels that need no training of their own: coefficients, soups, prompts; and their speed."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trimtab.evaluation.level_results import Attempt, Speed, Way
from trimtab.policies.lm import LM
from trimtab.policies.write_folder import write_folder
from trimtab.rewards.level import LEVELS, Domain, Level
from trimtab.tasks.level_points import Held, Vectors, attempts, plain, prompt_tokens, questions, reach, steered
from trimtab.tasks.level_settings import LevelSettings
from trimtab.tasks.levels import level_prompt
from trimtab.training.small import save_model
from trimtab.vectors.preference import Point, Preference, Question, preferences
from trimtab.vectors.search import Target, Trial, Trials, coarse_to_fine

View = Callable[[Domain, Level], LM]
"""The model as it is prompted for a level of a domain."""


@dataclass(frozen=True)
class Ready:
    """A base with vectors, and the questions that it is asked.

    Args:
        base: the model.
        vectors: by domain.
        search: the questions that coefficients are chosen by.
        final: the questions that everything is measured on.
    """

    base: LM
    vectors: Vectors
    search: Sequence[Question]
    final: Sequence[Question]

    def steered(self, settings: LevelSettings) -> LM:
        """Return the base with a knob for each vector."""
        return steered(self.base, self.vectors, reach((settings.search.min, settings.search.max)))


def by_search(
    ready: Ready, settings: LevelSettings, folder: Path, about: Mapping[str, str], progress: Callable[[str], None]
) -> Way:
    """Search the coefficients of every combination, then try them on other questions.

    Args:
        ready: what is asked what.
        settings: the ranges, and how finely they are searched.
        folder: of the search; what was measured there is used again.
        about: what is measured; a folder of something else is refused.
        progress: told how many points are measured next.
    """
    policy, knobs, targets = ready.steered(settings), settings.knobs, [*map(plain, settings.targets)]
    clock = folder / "seconds.jsonl"  # summed over all runs, so that a search that was stopped still knows its time

    def measure(points: Sequence[Point]) -> list[Preference]:
        progress(f"{len(points)} points")
        started = time.perf_counter()
        found = preferences(policy, ready.search, points)
        with clock.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"points": len(points), "seconds": time.perf_counter() - started}) + "\n")
        return found

    trials = Trials(folder / "trials.jsonl", about, measure)
    coarse_to_fine(trials, knobs, targets, steps=settings.search.steps, rounds=settings.search.rounds)
    spent = sum(json.loads(line)["seconds"] for line in clock.read_text(encoding="utf-8").splitlines())
    return _tried(ready, policy, [(target, chosen(trials, target)) for target in targets], spent)


def by_soups(ready: Ready, settings: LevelSettings) -> Way:
    """Try rewarded soups: averages of the aligned models, that is, coefficients from 0 that sum to 1.

    Reference: Rame et al. (2023), Rewarded soups. ``sum_i w_i theta_i = base + sum_i w_i v_i`` where the weights sum
    to 1. Chosen and measured like searched coefficients.
    """
    started, policy, targets = time.perf_counter(), ready.steered(settings), [*map(plain, settings.targets)]
    points = simplex(list(ready.vectors), settings.soup_steps)
    found = preferences(policy, ready.search, points)
    trials = [Trial(point, each) for point, each in zip(points, found, strict=True)]
    spent = time.perf_counter() - started
    return _tried(ready, policy, [(target, chosen(trials, target)) for target in targets], spent)


def by_one_prompt(base: LM, held: Held, targets: Sequence[Mapping[Domain, Level]]) -> Way:
    """Try one system prompt a combination, which tells the level of every domain."""
    started = time.perf_counter()
    asked = questions(held.final, base)
    prompted = [
        base.with_system(" ".join(level_prompt(domain, level) for domain, level in target.items()))
        for target in targets
    ]
    found = [
        Attempt(target=plain(target), at={}, found=preferences(lm, asked, [{}])[0])
        for target, lm in zip(targets, prompted, strict=True)
    ]
    spent = time.perf_counter() - started
    return _way((tuple(found), spent), 0.0, prompt_tokens(asked, [lm.view.extra for lm in prompted]))


def by_domain_prompts(view: View, held: Held, targets: Sequence[Mapping[Domain, Level]]) -> Way:
    """Try prompts that are chosen by a question's domain, which somebody has to know.

    Args:
        view: the model as it is prompted.
        held: the questions.
        targets: the combinations.
    """
    started, extra, asked = time.perf_counter(), list[int](), list[Question]()
    found: dict[tuple[Domain, Level], Preference] = {}
    for domain, own in held.final.items():
        for level in LEVELS:
            lm = view(domain, level)
            asked = questions({domain: own}, lm)
            found[domain, level] = preferences(lm, asked, [{}])[0]
            extra.append(lm.view.extra)
    tried = tuple(
        Attempt(target=plain(target), at={}, found=_together([found[each] for each in target.items()]))
        for target in targets
    )
    spent = time.perf_counter() - started
    everything = questions(held.final, lm)
    return _way((tried, spent), 0.0, prompt_tokens(everything, extra))


def speed(ready: Ready, settings: LevelSettings) -> Speed:
    """Measure points of the search in common batches, and one after another by merging and reloading.

    Adding vectors to the weights, writing them, and reading them again is what a search without knobs does for each
    point; the questions are asked in one batch a point there.
    """
    policy, points = ready.steered(settings), _spread(settings)
    preferences(policy, ready.search[:1], points[:1])  # puts the vectors on the trunk
    started = time.perf_counter()
    together = preferences(policy, ready.search, points)
    all_at_once = time.perf_counter() - started
    spent, apart = [0.0, 0.0, 0.0], list[Preference]()
    for point in points:
        with tempfile.TemporaryDirectory() as folder:
            times = [time.perf_counter()]
            merged = Path(folder) / "merged"
            _write_merged(ready, point, merged)
            times.append(time.perf_counter())
            lm = LM.load(merged, device=str(ready.base.trunk.device))
            times.append(time.perf_counter())
            apart += preferences(lm, ready.search, [{}])
            times.append(time.perf_counter())
        spent = [total + b - a for total, (a, b) in zip(spent, itertools.pairwise(times), strict=True)]
    difference = max(
        abs(a.leads[domain][level] - b.leads[domain][level])
        for a, b in zip(together, apart, strict=True)
        for domain in a.leads
        for level in a.leads[domain]
    )
    return Speed(
        points=len(points),
        together=all_at_once,
        merging=spent[0],
        reloading=spent[1],
        measuring=spent[2],
        difference=difference,
    )


def chosen(trials: Iterable[Trial], target: Target) -> Trial:
    """Return the trial for a target: of those that reach it, else of all, the one that fits best.

    Of equal ones it is the one closest to the base.
    """

    def merit(trial: Trial) -> tuple[bool, float, float]:
        size = sum(value * value for value in trial.point.values())
        return trial.found.reaches(target), trial.found.score(target), -size

    return max(trials, key=merit)


def simplex(names: Sequence[str], steps: int) -> list[dict[str, float]]:
    """Return all weights that are multiples of 1 / steps and sum to 1.

    Example:
        >>> simplex(["a", "b"], 2)
        [{'a': 0.0, 'b': 1.0}, {'a': 0.5, 'b': 0.5}, {'a': 1.0, 'b': 0.0}]
    """
    every = itertools.product(range(steps + 1), repeat=len(names))
    return [
        {name: count / steps for name, count in zip(names, counts, strict=True)}
        for counts in every
        if sum(counts) == steps
    ]


def _spread(settings: LevelSettings) -> list[dict[str, float]]:
    """Return points of the search that lie apart, none of them the base."""
    signs = list(itertools.product((settings.search.min, settings.search.max), repeat=len(settings.domains)))
    scaled = [
        {str(domain): value * share for domain, value in zip(settings.domains, corner, strict=True)}
        for share in (1.0, 0.5)
        for corner in signs
    ]
    return scaled[: settings.speed_points]


def _write_merged(ready: Ready, point: Point, folder: Path) -> None:
    """Write the base with vectors added to its weights."""
    lm = ready.base
    merged = lm.trunk.merged({ready.vectors[domain]: point[domain] for domain in ready.vectors})
    write_folder(
        folder,
        lambda partial: save_model(merged.model, lm.vocabulary, partial, merged.model.dtype),
        {"kind": "lm", "base": {"source": lm.trunk.source, "identity": lm.trunk.identity}},
        f"# {lm.name} with vectors added\n",
    )


def _together(parts: Sequence[Preference]) -> Preference:
    """Put preferences of different domains side by side."""
    shares = {domain: levels for part in parts for domain, levels in part.shares.items()}
    return Preference(shares, {domain: levels for part in parts for domain, levels in part.leads.items()})


def _tried(ready: Ready, policy: LM, best: Sequence[tuple[Target, Trial]], preparing: float) -> Way:
    """Try the points that were chosen on the other questions."""
    tried = attempts(policy, ready.final, [(target, trial.point) for target, trial in best])
    found = _way(tried, preparing, prompt_tokens(ready.final))
    return found.model_copy(update={"searched": sum(trial.found.reaches(target) for target, trial in best)})


def _way(tried: tuple[tuple[Attempt, ...], float], preparing: float, tokens: float) -> Way:
    return Way(attempts=tried[0], preparing=preparing, measuring=tried[1], prompt_tokens=tokens)
