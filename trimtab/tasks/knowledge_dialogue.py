"""Knowledge-grounded dialogue: answer from a passage, in words of one's own, and claim nothing that is not in it.

Passages are facts of chemical elements and countries, topics in the test split being unseen. The reward is knowledge-F1
times closeness, less copying; the judge counts which content words and numbers of an answer the passage supports. A
classifier of contradictions may judge too, where one can be fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trimtab.decoding.request import Settings
from trimtab.evaluation.bootstrap import Tally
from trimtab.evaluation.measure import Group, Measure, mean_score
from trimtab.rewards.contradiction import NAME as CONTRADICTION
from trimtab.rewards.overlap import copied_span_rate, token_f1
from trimtab.tasks.task import FLUENCY, Example, Task


def measures(judges: Sequence[str]) -> tuple[Measure, ...]:
    """Return what is reported."""
    return (
        *(
            Measure(
                "contradiction rate", "answers that the passage contradicts, by a classifier", _contradicted, "lower"
            )
            if judge == CONTRADICTION
            else mean_score(judge, "share of what an answer claims that its passage supports")
            for judge in judges
        ),
        Measure(
            "knowledge-F1", "words shared with the passage; part of the reward", _against("passage", token_f1), "higher"
        ),
        Measure("token F1", "words shared with the reference answer", _against("reference", token_f1), "higher"),
        Measure(
            "copied span",
            "longest run of words from the passage, over the answer",
            _against("passage", copied_span_rate),
        ),
        *FLUENCY,
    )


def _contradicted(group: Group) -> Tally:
    found = group.scored(CONTRADICTION)
    return (sum(score < 1 / 2 for score in found), len(found))


def _against(column: str, compare: Callable[[str, str], float]) -> Callable[[Group], Tally]:
    """Compare answers with a column of their row."""

    def tally(group: Group) -> Tally:
        other = group.columns.get(column)
        if not isinstance(other, str):
            return (0, 0)
        return (sum(compare(text, other) for text in group.texts), len(group.texts))

    return tally


_MARS = "Passage: Mars is the fourth planet from the Sun. It is red. It has two moons, Phobos and Deimos.\n"

TASK = Task(
    name="knowledge-dialogue",
    title="Knowledge-grounded dialogue",
    source="knowledge-dialogue",
    columns=("passage",),
    reward="grounded",
    judges=("support",),
    measures=measures,
    instruction="You answer questions in one sentence, only with facts from the given passage.",
    examples=(
        Example(f"{_MARS}Question: How many moons has Mars?\nAnswer:", "It has two, Phobos and Deimos."),
        Example(
            f"{_MARS}Question: Tell me about Mars.\nAnswer:",
            "Mars is a red planet, the fourth from the Sun, with two moons.",
        ),
    ),
    settings=Settings(max_new_tokens=40),
    answers=2,
    chat=True,
    training={"rollout": {"max_new_tokens": 40, "min_new_tokens": 4}},
)
