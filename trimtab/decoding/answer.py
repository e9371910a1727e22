"""What a request gets back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trimtab.decoding.detail import Detail
from trimtab.errors import UsageError

FinishReason = Literal["end", "stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class Written:
    """The tokens of an unfinished answer with what each cost; fields are those of :class:`Answer`."""

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    reference_log_probs: tuple[float, ...] = ()
    kl: tuple[float, ...] = ()
    details: tuple[Detail, ...] = ()


@dataclass(frozen=True)
class Answer:
    """One generated answer with what every token cost.

    Args:
        prompt: the text it answers.
        text: the answer, without the stop text and without end tokens.
        token_ids: every generated token, the end token included.
        log_probs: log-probability of each token under the policy at temperature 1, before warping, in nats; empty where
            an engine does not tell.
        reference_log_probs: the same under the reference, the untouched base.
        kl: exact KL(policy || reference) of each step over the whole vocabulary, in nats; empty where it was not
            measured.
        finish_reason: "end" (an end token), "stop" (a stop text or token) or "length"; rows of a pool may also be
            "cancelled" or end in "error".
        covered: where the policy cuts the support, the probability that the reference gives, at each token, to those
            tokens that the policy leaves possible; empty otherwise.
        unmet: keywords that it should hold and lacks.
        listed: where an endpoint sampled it under a bias, the share of the steering that the bias could list, at each
            token; empty otherwise.
        details: what steering did at each token, where it was asked for; empty otherwise.
    """

    prompt: str
    text: str
    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    reference_log_probs: tuple[float, ...]
    kl: tuple[float, ...]
    finish_reason: FinishReason
    covered: tuple[float, ...] = ()
    unmet: tuple[str, ...] = ()
    listed: tuple[float, ...] = ()
    details: tuple[Detail, ...] = ()

    @property
    def mean_kl(self) -> float:
        """KL to the reference per generated token, in nats.

        Raises:
            UsageError: it was not measured.
        """
        if not self.kl:
            raise UsageError(
                given=f"the KL of an answer of {len(self.token_ids)} tokens, for which none was measured",
                expected="an answer of at least one token, from an engine that sees whole distributions",
                hint="look at answer.kl first: it is empty where an endpoint or an unmetered engine wrote the answer",
            )
        return sum(self.kl) / len(self.kl)
