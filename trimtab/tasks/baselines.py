"""What a policy has to beat without training anything: asking for it, showing examples, and choosing among many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from trimtab.decoding.constraints import Constraints
from trimtab.decoding.search_plan import SearchPlan
from trimtab.decoding.shape import best_of_n
from trimtab.errors import ConfigError
from trimtab.policies.base import Policy
from trimtab.policies.chat import Turn, chat_text
from trimtab.policies.lm import LM
from trimtab.policies.vocabulary import Vocabulary
from trimtab.rewards import Reward, as_reward
from trimtab.rewards.by_prompt import ByPrompt
from trimtab.rewards.inflections import inflections
from trimtab.tasks.task import Row, Task
from trimtab.training.prompts import as_chat
from trimtab.values import RewardValue

NAMES = ("instruction", "examples", "best-of-N")


@dataclass(frozen=True)
class Contestant:
    """A policy of a comparison.

    Args:
        policy: who answers.
        search: how answers are searched for; they are sampled without one.
        keywords: words that the answers must hold, one a prompt; None leaves them free.
    """

    policy: Policy
    search: SearchPlan | None = None
    keywords: tuple[Constraints, ...] | None = None


def constrained(policy: Policy, rows: Sequence[Row]) -> Contestant:
    """Return a policy whose answers are made to say the keywords of each row, in order and in any form.

    Args:
        policy: who answers.
        rows: with the column ``keywords``.

    Raises:
        ConfigError: a row has no keywords, or some that are no words.
    """
    if without := [row for row in rows if not isinstance(row.get("keywords"), list | tuple)]:
        raise ConfigError(
            given=f"the prompt {without[0]['prompt'][:80]!r} with the columns {sorted(without[0])}",
            expected="a list of words in the column keywords of every row, for answers that must say them",
            hint="leave constrained out, or take data with keywords",
        )
    held = [Constraints.of(row["keywords"], inflect=inflections) for row in rows]
    return Contestant(policy, keywords=tuple(held))


def baseline(name: str, task: Task, base: Policy, reward: Reward, rows: Sequence[Row]) -> Contestant:
    """Return a baseline.

    Args:
        name: ``"instruction"`` (the wish in words before every prompt), ``"examples"`` (the same with examples of
            it), or ``"best-of-8"`` (the best of that many answers of the base, by the training reward).
        task: what is wished.
        base: the untouched model.
        reward: what guides were trained on.
        rows: the prompts with their columns.

    Raises:
        ConfigError: there is no such baseline, or the base is no model that can be prompted.
        ModelError: the task needs a chat format that the model has not.
    """
    plan = best_of(name, reward, base.vocabulary, rows)
    if plan is None:
        if not isinstance(base, LM):
            raise ConfigError(
                given=f"the baseline {name} for {base}",
                expected="a model that sees prompts",
                hint="leave this baseline out",
            )
        return Contestant(base.with_prompt(asking(task, base.vocabulary, shown=name == "examples")))
    return Contestant(base, plan)


def best_of(name: str, reward: Reward, vocabulary: Vocabulary, rows: Sequence[Row]) -> SearchPlan | None:
    """Return how a baseline such as ``best-of-8`` searches; None for those that put a text before the prompt.

    Args:
        name: of the baseline.
        reward: what guides were trained on.
        vocabulary: of the base.
        rows: the prompts with their columns.

    Raises:
        ConfigError: there is no such baseline.
    """
    count = check_baseline(name)
    if count is None:
        return None
    return informed(SearchPlan(RewardValue(reward), best_of_n(count)), vocabulary, rows)


def check_baseline(name: str) -> int | None:
    """Return of how many answers a baseline takes the best; None where it takes the only one.

    Raises:
        ConfigError: there is no such baseline.

    Example:
        >>> check_baseline("best-of-8"), check_baseline("instruction")
        (8, None)
    """
    if name in ("instruction", "examples"):
        return None
    head, _, count = name.rpartition("-")
    if head == "best-of" and count.isdecimal() and int(count) > 0:
        return int(count)
    raise ConfigError(given=f"the baseline {name!r}", expected=f"one of {', '.join(NAMES)}", hint="best-of-8")


def informed(plan: SearchPlan, vocabulary: Vocabulary, rows: Sequence[Row]) -> SearchPlan:
    """Return a plan whose reward gets the columns of the prompts, and in a chat what the user said.

    Args:
        plan: how answers are searched for.
        vocabulary: of the policy that proposes.
        rows: the prompts with their columns, as the policy reads them.
    """
    if not isinstance(plan.value, RewardValue):
        return plan
    # A search knows prompts by their tokens, and spells them without special ones.
    known = [
        {"query": row["prompt"], **row, "prompt": vocabulary.decode(vocabulary.encode(row["prompt"]))} for row in rows
    ]
    return replace(plan, value=replace(plan.value, reward=ByPrompt(as_reward(plan.value.reward), known)))


def asking(task: Task, vocabulary: Vocabulary, *, shown: bool) -> str:
    """Return what is put before every prompt to ask for what a task wants.

    In a chat these are a system prompt and turns; the question after them keeps the format in which the base reads it.

    Args:
        task: what is wanted.
        vocabulary: of the base, with its chat format.
        shown: whether examples follow the instruction.
    """
    if not task.chat:
        texts = [f"{each.prompt}{each.answer}\n\n" for each in task.examples] if shown else []
        # The instruction is repeated before each text, so that the prompt continues the pattern.
        return "".join(task.instruction + text for text in texts) + task.instruction
    turns = [Turn("system", task.instruction)]
    if shown:
        for each in task.examples:
            turns += [Turn("user", each.prompt), Turn("assistant", each.answer)]
    return chat_text(vocabulary, turns, answered=True)


def asked(task: Task, vocabulary: Vocabulary, rows: Sequence[Row]) -> list[Row]:
    """Return the rows with prompts as the models of a task read them.

    In a chat the column ``query`` keeps what the user said, which is what scorers of prompts should look at.

    Args:
        task: whose rows.
        vocabulary: of the base, with its chat format.
        rows: as the data has them.

    Raises:
        ModelError: the task needs a chat format that the base has not.
    """
    return as_chat(rows, vocabulary) if task.chat else list(rows)
