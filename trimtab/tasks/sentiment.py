"""Positive sentiment: continue the opening of a film review so that it turns out well.

Prompts are the first words of IMDB reviews; the training reward is a classifier trained on IMDB; the judges are a
classifier trained on Rotten Tomatoes sentences and VADER's lexicon, which no training sees.
"""

from __future__ import annotations

from trimtab.assets import review_prompts

REWARD = "sentiment"
JUDGES = ("rt", "vader")


def unseen_prompts(count: int) -> list[str]:
    """Return prompts that are no training prompts.

    Args:
        count: how many.
    """
    return review_prompts("test")[:count]
