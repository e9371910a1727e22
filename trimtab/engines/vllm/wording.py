"""What an answer is to vLLM, in its words, and what it says of one, in trimtab's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trimtab.decoding.answer import FinishReason
from trimtab.decoding.request import Request, Settings
from trimtab.decoding.sampling import seed_of
from trimtab.errors import RunError
from trimtab.policies.vocabulary import Vocabulary

if TYPE_CHECKING:
    from vllm import CompletionOutput, SamplingParams


def params_of(
    request: Request, settings: Settings, number: int, exponents: dict[str, float], vocabulary: Vocabulary
) -> SamplingParams:
    """Return an answer's settings in vLLM's words.

    Args:
        request: the answer's.
        settings: how it is decoded.
        number: which of the request's n answers it is.
        exponents: knob values, which the policy inside vLLM reads.
        vocabulary: of the policy, whose end tokens stop it too.
    """
    from vllm import SamplingParams

    sampling = settings.sampling
    seed = seed_of(settings.seed, request.prompt, request.occurrence, number)
    return SamplingParams(
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        top_p=sampling.top_p,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        seed=int(seed.generate_state(1, "uint64")[0] >> 1),
        max_tokens=settings.max_new_tokens,
        min_tokens=settings.min_new_tokens,
        stop=list(settings.stop),
        stop_token_ids=[*settings.stop_ids, *vocabulary.end_ids],
        include_stop_str_in_output=True,
        logprobs=0,
        extra_args=exponents,
    )


def log_probs_of(said: CompletionOutput) -> list[float]:
    """Return the log-probability of each token that vLLM has picked, in nats."""
    return [each[token].logprob for each, token in zip(said.logprobs, said.token_ids, strict=True)]


def finish_of(reason: str | None, stop: int | str | None, ends: frozenset[int]) -> FinishReason:
    """Return why an answer ended in trimtab's words; vLLM calls end tokens stops as well.

    Example:
        >>> finish_of("stop", 2, frozenset({2})), finish_of("stop", "END", frozenset({2}))
        ('end', 'stop')
    """
    if reason == "stop":
        return "end" if stop is None or stop in ends else "stop"
    return "length" if reason == "length" else "cancelled" if reason == "abort" else "error"


def broken(reason: str | None) -> RunError:
    """Return what to say of an answer that vLLM ended for a reason of its own."""
    return RunError(
        given=f"an answer that vLLM ended with {reason!r}", expected="its end, a stop or its length", hint="see its log"
    )
