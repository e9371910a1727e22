"""How far two forms of a vector are apart where it counts: in the log-probabilities that a model gives with them."""

from __future__ import annotations

from collections.abc import Sequence

from trimtab.policies.lm import LM
from trimtab.policies.vector import Vector

PROMPTS = (
    "The film was",
    "Dear Sir or Madam,",
    "What is the capital of Peru?",
    "def add(a, b):",
    "Once upon a time there was",
    "The patient complained of",
    "Under the terms of the contract,",
    "Interest rates rose because",
    "To bake bread you need",
    "1, 2, 3,",
    "She opened the letter and",
    "In 1969 the first",
    "The most important thing about a bridge is",
    "I am sorry, but",
    "Breaking news:",
    "Photosynthesis is the process by which",
    "My favourite colour is",
    "The train to Berlin leaves at",
    "A triangle has three",
    "Nobody knew why the lights",
)
"""Beginnings of twenty different texts."""


def log_prob_error(base: LM, vector: Vector, approximation: Vector, prompts: Sequence[str] = PROMPTS) -> float:
    """Return ``max |log p(y | x) - log p'(y | x)|`` over prompts x and all next tokens y, in nats.

    It counts the least likely tokens of the vocabulary as much as the likeliest.

    Args:
        base: the LM that both are added to, at strength 1.
        vector: gives p.
        approximation: gives p'.
        prompts: texts.

    Raises:
        ModelError: a vector was taken from other weights.

    Example:
        >>> from trimtab.testing import random_vector, tiny_lm
        >>> base = tiny_lm()
        >>> log_prob_error(base, random_vector(base), random_vector(base), ["t1 t2"])
        0.0
    """
    first, second = ((base + each).next_log_probs(prompts) for each in (vector, approximation))
    return float((first - second).abs().max())
