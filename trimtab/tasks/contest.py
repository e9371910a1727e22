"""Policies at a task: answers to the same prompts, judged, tabulated, and looked through for hacked rewards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab.decoding.request import Settings
from trimtab.errors import ConfigError
from trimtab.evaluation.bootstrap import Tally
from trimtab.evaluation.compare import Comparison, compare_players
from trimtab.evaluation.hacking import Hacking, hacking
from trimtab.evaluation.measure import ESTIMATED_KL, KL, Group, Measure
from trimtab.evaluation.player import LocalPlayer, Player
from trimtab.evaluation.table import Table, tabulate
from trimtab.rewards import Likelihood, Reward
from trimtab.tasks.baselines import Contestant
from trimtab.tasks.task import Row, Task
from trimtab.training.rollouts import columns_of


@dataclass(frozen=True)
class Standing:
    """How policies did.

    Args:
        task: what was asked of them.
        comparison: their answers.
        table: their numbers.
        hacking: policy to its gains by reward and by judge; the base has none.
    """

    task: Task
    comparison: Comparison
    table: Table
    hacking: Mapping[str, Hacking]

    @property
    def warnings(self) -> list[str]:
        """What a reader has to know beside the table."""
        flagged = [f"{name}: {each}" for name, each in self.hacking.items() if each.flagged]
        missing = [
            f"{line.name}: {judge} had no score for {count} answers, which are left out of its numbers"
            for line in self.table.lines
            for judge, count in line.unscored.items()
            if count
        ]
        return [*flagged, *missing]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values for JSON."""
        return {
            "task": self.task.name,
            **self.comparison.to_dict(),
            "table": self.table.to_dict(),
            "hacking": {name: {**asdict(each), "flagged": each.flagged} for name, each in self.hacking.items()},
        }

    def markdown(self) -> str:
        """Return the table with what has to be known to read it."""
        comparison, settings = self.comparison, self.comparison.settings
        sampling = settings.sampling
        lines = [
            f"# {self.task.title}",
            "",
            f"{len(comparison.prompts)} unseen prompts, {comparison.n} answers each, temperature "
            f"{sampling.temperature:g}, top-p {sampling.top_p:g}, at most {settings.max_new_tokens} new tokens, seed "
            f"{settings.seed}. Training reward: {comparison.reward}. In brackets: 95 % bootstrap intervals over "
            "prompts. A star: the difference to the first line, prompts paired, excludes 0 at 95 %.",
            "",
            self.table.markdown(),
            *(f"* {measure.name}: {measure.note}" for measure in self.table.columns),
            "",
            "Gains over the base, in standard deviations of its scores:",
            "",
            *(f"* {name}: {each}" for name, each in self.hacking.items()),
        ]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> Path:
        """Write results.json and table.md.

        Returns:
            table.md.
        """
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self.to_dict(), ensure_ascii=False, default=str)
        (folder / "results.json").write_text(content + "\n", encoding="utf-8")
        target = folder / "table.md"
        target.write_text(self.markdown(), encoding="utf-8")
        return target


@dataclass(frozen=True)
class Conditions:
    """What all policies of a contest have in common.

    Args:
        rows: prompts with their columns.
        reward: what guides were trained on.
        judges: what no training saw.
        settings: how answers are sampled.
        n: answers a prompt.
        knobs: values for the policies that have them.
        readers: other language models, whose perplexity of the answers is reported.
    """

    rows: Sequence[Row]
    reward: Reward
    judges: Sequence[Reward]
    settings: Settings
    n: int
    knobs: Mapping[str, float]
    readers: Sequence[Likelihood] = ()

    @property
    def about(self) -> dict[str, Any]:
        """What measurements depend on beside a policy and its knobs, as plain values."""
        rows = json.dumps(list(self.rows), default=str).encode()
        return {
            "rows": hashlib.sha256(rows).hexdigest()[:16],
            "reward": self.reward.name,
            "judges": [judge.name for judge in self.judges],
            "settings": asdict(self.settings),
            "n": self.n,
        }


def contest(
    task: Task,
    contestants: Mapping[str, Contestant],
    conditions: Conditions,
    *,
    on_policy: Callable[[str], None] | None = None,
) -> Standing:
    """Let policies of this process compete at a task.

    Args:
        task: says what is measured.
        contestants: by name; the first is the base.
        conditions: the same for all.
        on_policy: called with each name before its answers are made.

    Raises:
        ConfigError: there are no prompts or no judges, or a judge is not independent.
        PromptError: a prompt is empty or too long.
        RewardError: the reward or a judge failed.
    """
    base = next(iter(contestants.values())).policy.reference if contestants else None
    players = {
        name: LocalPlayer(each.policy, base, each.search, each.keywords)
        for name, each in contestants.items()
        if base is not None
    }
    return compete(task, players, conditions, on_policy=on_policy)


def compete(
    task: Task,
    players: Mapping[str, Player],
    conditions: Conditions,
    *,
    on_policy: Callable[[str], None] | None = None,
) -> Standing:
    """Let players compete at a task, wherever they run.

    Args:
        task: says what is measured.
        players: by name; the first is the base.
        conditions: the same for all.
        on_policy: called with each name before its answers are made.

    Raises:
        ConfigError: there are no prompts or no judges, or a judge is not independent.
        PromptError: a prompt is empty or too long.
        RewardError: the reward or a judge failed.
    """
    rows, columns = conditions.rows, columns_of(list(conditions.rows))
    if not rows:
        raise ConfigError(
            given=f"no prompts for {task.name}", expected="at least one", hint="raise --prompts, or check the data"
        )
    if not conditions.judges:
        raise ConfigError(
            given=f"no judges for {task.name}", expected="at least one that no training saw", hint="take the task's own"
        )
    comparison = compare_players(
        players,
        [row["prompt"] for row in rows],
        reward=conditions.reward,
        judges=[*conditions.judges, *conditions.readers],
        settings=conditions.settings,
        n=conditions.n,
        knobs=conditions.knobs,
        columns=columns,
        on_policy=on_policy,
    )
    named = task.measures([judge.name for judge in conditions.judges])
    told = [ESTIMATED_KL if each == KL and comparison.estimated else each for each in named]
    measures = (*told, *map(_perplexity, conditions.readers))
    table, base = tabulate(comparison, measures, columns, task.overall), comparison.base
    better = {measure.name: measure.better for measure in measures}
    main = comparison.judges[0]
    gains = {result.name: hacking(base, result, main, better.get(main, "higher")) for result in comparison.results[1:]}
    return Standing(task, comparison, table, gains)


def _perplexity(reader: Likelihood) -> Measure:
    """Return the perplexity of answers under another language model, every answer counting the same."""

    def tally(group: Group) -> Tally:
        found = group.scored(reader.name)
        return (-sum(found), len(found))

    name = f"perplexity, {reader.model}"
    return Measure(name, f"of the answers under {reader.model}, over its own tokens", tally, "lower", True, digits=1)
