"""Lexically constrained generation: one sentence that says given words in the order in which they are given.

Keywords are the nouns and verbs of sentences of the Brown corpus. The reward is ordered coverage, by lists of forms,
times acceptability, times diversity, without which training finds that it may say the list over and over; the judges
compare stems, and ask a language model how fluent the sentence is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from trimtab.decoding.request import Settings
from trimtab.evaluation.bootstrap import Tally
from trimtab.evaluation.measure import Group, Measure, Overall, mean_score
from trimtab.evaluation.references import bleu, rouge
from trimtab.tasks.task import FLUENCY, Example, Task


def measures(judges: Sequence[str]) -> tuple[Measure, ...]:
    """Return what is reported; the first judge gives the share of keywords."""

    def whole(group: Group) -> Tally:
        found = group.scored(judges[0])
        return (sum(score == 1.0 for score in found), len(found))

    return (
        Measure("all covered", f"share of answers with all keywords in order, by {judges[0]}", whole, "higher"),
        mean_score(judges[0], "share of the keywords in order"),
        *(mean_score(judge, "P(fine), mean") for judge in judges[1:]),
        Measure("ROUGE-L", "to the sentence that a person wrote", reference_overlap, "higher"),
        *FLUENCY,
    )


def references(groups: Sequence[Group]) -> tuple[list[str], list[str]]:
    """Return all answers, and the reference of each; prompts without one are left out."""
    pairs = [
        (text, reference)
        for group in groups
        if isinstance(reference := group.columns.get("reference"), str)
        for text in group.texts
    ]
    return [text for text, _ in pairs], [reference for _, reference in pairs]


def likeness_to_sentences(groups: Sequence[Group]) -> float:
    """Return the BLEU of all answers; not a number where no row has a reference."""
    texts, written = references(groups)
    return bleu(texts, written) if texts else math.nan


def reference_overlap(group: Group) -> Tally:
    """Return ROUGE-L to the row's reference, over answers; nothing where the row has none."""
    reference = group.columns.get("reference")
    if not isinstance(reference, str):
        return (0, 0)
    return (rouge(group.texts, [reference] * len(group.texts))["rougeL"] * len(group.texts), len(group.texts))


TASK = Task(
    name="keywords",
    title="Lexically constrained generation",
    source="keywords",
    columns=("keywords",),
    reward={"name": "product", "parts": ["coverage", {"name": "acceptability", "scope": "completion"}, "diversity"]},
    judges=("stem-coverage", {"name": "fluency", "scope": "completion"}),
    measures=measures,
    overall=(
        Overall(
            "BLEU",
            "to the sentences that people wrote, 0 to 100",
            likeness_to_sentences,
            "higher",
            1,
        ),
    ),
    instruction="You write one short sentence that contains all given words in the given order.",
    examples=(
        Example("Write one sentence with the words dog, run, park in this order:\n", "The dog ran through the park."),
        Example(
            "Write one sentence with the words woman, open, letter, smile in this order:\n",
            "The woman opened the letter and smiled.",
        ),
        Example(
            "Write one sentence with the words rain, stop, child in this order:\n",
            "When the rain stopped, the children went outside.",
        ),
    ),
    settings=Settings(max_new_tokens=32),
    answers=4,
    chat=True,
    training={"rollout": {"max_new_tokens": 32, "min_new_tokens": 4}},
)
