"""How near answers stay to what was asked: reported by tasks whose reward asks for it too."""

from collections.abc import Sequence

from trimtab.evaluation.measure import Group, Overall
from trimtab.rewards.coherence import Coherence


def coherence(groups: Sequence[Group]) -> float:
    """Return the mean likeness of prompts, or of what users said, and answers, from 0 to 1.

    Args:
        groups: answers, prompt by prompt.

    Raises:
        AssetError: the encoder cannot be fetched.
    """
    pairs = [
        (str(group.columns.get("query", group.columns["prompt"])), text) for group in groups for text in group.texts
    ]
    prompts, texts = ([pair[side] for pair in pairs] for side in (0, 1))
    found = Coherence.load()(prompts, texts)
    return sum(found) / len(found)


COHERENCE = Overall("coherence", "likeness of prompt and answer by MiniLM; a part of the reward", coherence, "higher")
"""Coherence with its name."""
