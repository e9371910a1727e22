"""What is measured on answers, as pure functions: diversity, repetition, perplexity and KL.

Nothing here knows where answers come from. Sums run over all tokens of all answers, so long answers count more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

import torch

from trimtab.decoding.answer import Answer
from trimtab.decoding.kl import exact_kl
from trimtab.errors import UsageError
from trimtab.policies.advance import init, step
from trimtab.policies.base import Policy
from trimtab.policies.vocabulary import common_vocabulary


def distinct_n(answers: Sequence[str | Sequence[int]], n: int) -> float:
    """Return the share of different n-grams among all n-grams of all answers.

        distinct_n = |set of n-grams| / number of n-grams

    It falls as the number of answers grows, so compare it at equal numbers and lengths only.

    Args:
        answers: texts, which are split into words at white space, or token ids.
        n: length of the n-grams, at least 1.

    Returns:
        From 0 to 1; 0 when no answer is n long.

    Example:
        >>> distinct_n(["a b a b", "a b"], 2)  # ab ba ab, ab: 2 different ones of 4
        0.5

    Reference: Li et al. 2016 (arXiv 1510.03055), who divide by the number of words rather than of n-grams.
    """
    grams = Counter(gram for answer in answers for gram in _grams(answer, n))
    return len(grams) / grams.total() if grams else 0.0


def repetition(answers: Sequence[str | Sequence[int]], n: int = 3) -> float:
    """Return the mean over answers of the share of n-grams that the same answer already held.

        repetition = mean over answers of (1 - |set of n-grams| / number of n-grams)

    Args:
        answers: texts, which are split into words at white space, or token ids.
        n: length of the n-grams.

    Returns:
        From 0 to 1; an answer shorter than n counts as 0.

    Example:
        >>> round(repetition(["a b a b", "a b"], 2), 4)  # the first repeats 1 of its 3 bigrams, the second none
        0.1667
    """
    shares = [1 - distinct_n([answer], n) if _grams(answer, n) else 0.0 for answer in answers]
    return sum(shares) / len(shares) if shares else 0.0


def perplexity(log_probs: Sequence[Sequence[float]]) -> float:
    """Return the exponential of the mean negative log-probability over all tokens.

        perplexity = exp(-sum of log_probs / number of tokens)

    Args:
        log_probs: log-probability of every token of every answer, in nats.

    Returns:
        At least 1; infinite when some token was impossible or the mean is beyond what a float holds.

    Example:
        >>> round(perplexity([[math.log(0.5)], [math.log(0.125), math.log(0.125)]]), 4)  # 2^((1 + 3 + 3) / 3)
        5.0397

    Raises:
        UsageError: there are none.
    """
    values = [value for row in log_probs for value in row]
    _refuse_nothing(values, "log-probabilities")
    mean = -sum(values) / len(values)
    return math.exp(mean) if mean < 709 else math.inf


def measured_from(
    base: Policy, policy: Policy, answers: Sequence[Answer], knobs: Mapping[str, float], *, rows: int = 8
) -> list[Answer]:
    """Return a policy's answers with the log-probabilities and the KL that they have to another base than its own.

    Args:
        base: what is measured from.
        policy: whose answers.
        answers: at least one.
        knobs: values that the policy answered with.
        rows: answers a forward pass.

    Raises:
        VocabularyError: the two have different tokens.

    Example:
        >>> from trimtab.policies.toy import Table
        >>> fair, loaded = (Table.of({"": {"heads": p, "tails": 1 - p}}) for p in (0.5, 0.9))
        >>> (found,) = measured_from(fair, loaded, loaded.generate("heads", max_new_tokens=2, seed=0), {})
        >>> [round(kl, 3) for kl in found.kl]  # .9 ln 1.8 + .1 ln .2
        [0.368, 0.368]
    """
    common_vocabulary(policy.vocabulary, base.vocabulary)
    found: list[Answer] = []
    with torch.inference_mode():
        for start in range(0, len(answers), rows):
            batch = answers[start : start + rows]
            width = max(len(answer.token_ids) for answer in batch)
            block = torch.tensor([[*answer.token_ids, *[0] * (width - len(answer.token_ids))] for answer in batch])
            prompts = [base.vocabulary.encode(answer.prompt) for answer in batch]
            first, state = init([policy, base], prompts, knobs)
            rest, _ = step([policy, base], state, block[:, :-1])
            own, theirs = (torch.cat([a.unsqueeze(1), b], 1) for a, b in zip(first, rest, strict=True))
            theirs = theirs[..., : own.shape[-1]]
            chosen = theirs.gather(2, block.to(theirs.device).unsqueeze(2)).squeeze(2).tolist()
            for answer, costs, kls in zip(batch, chosen, exact_kl(own, theirs).tolist(), strict=True):
                length = len(answer.token_ids)
                found.append(replace(answer, reference_log_probs=tuple(costs[:length]), kl=tuple(kls[:length])))
    return found


def mean_kl(answers: Sequence[Answer]) -> float:
    """Return the mean over all generated tokens of the exact KL(policy || reference), in nats per token.

    Raises:
        UsageError: it was not measured for any of them.
    """
    values = [value for answer in answers for value in answer.kl]
    _refuse_nothing(values, "KL")
    return sum(values) / len(values)


def mean_log_ratio(answers: Sequence[Answer]) -> float:
    """Return an estimate of KL(policy || reference) in nats per token, from the sampled tokens alone.

        mean over tokens of log pi(y) - log pi_ref(y)

    It is right on average where tokens were drawn from the policy itself, at temperature 1 and without cuts.

    Raises:
        UsageError: log-probabilities were not measured for any of them.

    Example:
        >>> round(mean_log_ratio([Answer("", "a b", (0, 1), (-0.5, -0.25), (-1.0, -1.0), (), "length")]), 4)
        0.625
    """
    values = [own - reference for answer in answers for own, reference in log_ratio_pairs(answer)]
    _refuse_nothing(values, "log-probabilities")
    return sum(values) / len(values)


def log_ratio_pairs(answer: Answer) -> list[tuple[float, float]]:
    """Return the log-probability of each token under the policy and under the reference."""
    return [*zip(answer.log_probs, answer.reference_log_probs, strict=True)]


def mean_length(answers: Sequence[Answer]) -> float:
    """Return the mean number of tokens an answer has."""
    return sum(len(answer.token_ids) for answer in answers) / len(answers)


def _grams(answer: str | Sequence[int], n: int) -> list[tuple[Hashable, ...]]:
    """List the n-grams of one answer in order."""
    items: Sequence[Hashable] = answer.split() if isinstance(answer, str) else answer
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


def _refuse_nothing(values: Sequence[float], what: str) -> None:
    """Refuse answers of engines that do not tell what their tokens cost."""
    if not values:
        raise UsageError(
            given=f"answers without {what}",
            expected=f"answers whose {what} was measured, of at least one token",
            hint="an endpoint that gives text alone does not tell: measure them with measured_from",
        )
