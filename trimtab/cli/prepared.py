"""What a task needs before any model is loaded: scorers that are independent, and prompts that no guide has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from trimtab.cli.trained import refuse_dependent, refuse_trained_prompts

if TYPE_CHECKING:
    from trimtab.cli.console import Talk
    from trimtab.policies.vocabulary import Vocabulary
    from trimtab.rewards import Likelihood, Reward
    from trimtab.tasks.contest import Conditions
    from trimtab.tasks.task import Row, Task


@dataclass(frozen=True)
class Choices:
    """What a command line may say about a task; None and nothing stand for the task's own.

    Args:
        reward: what the guides were trained on.
        judges: their names.
        data: where the prompts come from.
        prompts: how many, at most.
        n: answers to each.
        readers: other language models that read the answers.
    """

    reward: str | None
    judges: Sequence[str]
    data: str | None
    prompts: int
    n: int | None
    readers: Sequence[str] = ()


@dataclass(frozen=True)
class Prepared:
    """A task with its scorers and prompts.

    Args:
        task: what is asked of policies.
        reward: what guides were trained on.
        judges: independent of it.
        unseen: the prompts, as they are in the data.
        n: answers to each.
        readers: other language models, whose perplexity of the answers is reported.
    """

    task: Task
    reward: Reward
    judges: Sequence[Reward]
    unseen: Sequence[Row]
    n: int
    readers: Sequence[Likelihood]

    def conditions(
        self, vocabulary: Vocabulary, seed: int | None, knobs: Mapping[str, float], max_new_tokens: int | None = None
    ) -> Conditions:
        """Return what all policies have in common, the prompts as a base is asked them.

        Args:
            vocabulary: of the base, with its chat format.
            seed: of the answers; 0 for None.
            knobs: their values.
            max_new_tokens: longest answer, in tokens; the task's own for None.
        """
        from trimtab.tasks.baselines import asked
        from trimtab.tasks.contest import Conditions

        settings = replace(self.task.settings, seed=seed or 0)
        if max_new_tokens is not None:
            settings = replace(settings, max_new_tokens=max_new_tokens)
        rows = asked(self.task, vocabulary, self.unseen)
        return Conditions(rows, self.reward, self.judges, settings, self.n, knobs, self.readers)


def prepare(name: str, choices: Choices, sources: Sequence[str], talk: Talk) -> Prepared:
    """Load the scorers of a task and read its prompts.

    Args:
        name: of the task.
        choices: of the command line.
        sources: of models, and values of searches: what they were trained on is neither judge nor prompt.
        talk: told what is going on.

    Raises:
        ConfigError: there is no such task, scorer or data, a judge is not independent of a reward, or a prompt was
            trained on.
        AssetError: something cannot be fetched.
    """
    from trimtab.rewards import Likelihood, load_judge, load_reward
    from trimtab.tasks.data import read_task_rows
    from trimtab.tasks.load import load_task

    task = load_task(name)
    reward = load_reward(choices.reward or task.reward, progress=talk.note)
    judges = [load_judge(each, progress=talk.note) for each in choices.judges or task.judges]
    refuse_dependent(reward, sources, judges, talk)
    source = choices.data or task.source
    unseen = read_task_rows(source, "test", columns=task.columns, limit=choices.prompts).rows
    refuse_trained_prompts(sources, source, unseen, talk)
    readers = [Likelihood.load(each, progress=talk.note) for each in choices.readers]  # models, so they come last
    if readers:
        refuse_dependent(reward, sources, readers, talk)
    return Prepared(task, reward, judges, unseen, choices.n or task.answers, readers)
