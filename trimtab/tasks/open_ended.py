"""Open-ended generation: continue a text so that it stays on its subject, does not repeat itself, and reads well.

Openings are the first 32 words of film reviews and of printed texts. The reward is coherence x diversity x
acceptability; the judge is a language model's view of fluency, which counts repetition as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from trimtab.decoding.request import Settings
from trimtab.evaluation.mauve import mauve
from trimtab.evaluation.measure import Group, Measure, Overall, mean_score
from trimtab.rewards.encoder import SentenceEncoder
from trimtab.tasks.coherence import COHERENCE
from trimtab.tasks.keywords import reference_overlap, references
from trimtab.tasks.task import FLUENCY, Example, Task


def measures(judges: Sequence[str]) -> tuple[Measure, ...]:
    """Return what is reported."""
    return (
        *(mean_score(judge, "P(fine), mean") for judge in judges),
        Measure("ROUGE-L", "to how a person went on", reference_overlap, "higher"),
        *FLUENCY,
    )


def likeness_to_people(groups: Sequence[Group]) -> float:
    """Return MAUVE between all answers and how people went on; not a number where there are too few."""
    texts, written = references(groups)
    if len(set(written)) < 2:
        return math.nan
    return mauve(texts, list(dict.fromkeys(written)), SentenceEncoder.load())


TASK = Task(
    name="open-ended",
    title="Open-ended generation",
    source="open-ended",
    reward={"name": "product", "parts": ["coherence", "diversity", "acceptability"]},
    judges=({"name": "fluency", "scope": "completion"},),
    measures=measures,
    overall=(
        COHERENCE,
        Overall("MAUVE", "of all answers and people's continuations, by MiniLM", likeness_to_people, "higher"),
    ),
    instruction="The following text stays on its subject, says nothing twice, and is well written.\n\n",
    examples=(
        Example(
            "The mayor announced on Monday that the old bridge would be closed for repairs, and that buses would take"
            " another road through the town until",
            " the end of the summer. Shops along the river fear for their customers; the council has promised them a"
            " temporary footbridge, to be opened within two weeks.",
        ),
        Example(
            "I had read the book twice before I saw this film, so my hopes were high and my doubts were higher, but"
            " from the first scene on",
            " it was clear that the director loves the story as much as I do. The cast is young and fresh, and the"
            " ending, though changed, is true to the spirit of the novel.",
        ),
    ),
    settings=Settings(max_new_tokens=64),
    answers=2,
    # Coherent is easiest said in a few words, so answers that may end early learn to.
    training={"rollout": {"max_new_tokens": 48, "min_new_tokens": 48}},
)
