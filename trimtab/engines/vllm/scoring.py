"""What answers cost under the reference, read by vLLM as prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from trimtab.engines.base import AS_REFERENCE

if TYPE_CHECKING:
    from vllm import RequestOutput
    from vllm.lora.request import LoRARequest


def score(
    engine: Any,
    texts: Sequence[tuple[Sequence[int], Sequence[int]]],
    adapter: LoRARequest | None,
    step: Callable[[], Sequence[RequestOutput]],
) -> list[tuple[float, ...]]:
    """Return the log-probability of each token of answers under the reference, in nats, at temperature 1.

    Args:
        engine: vLLM's ``LLMEngine``, with nothing else running.
        texts: prompts and the answers to them, in token ids.
        adapter: the LoRA of the reference, which changes nothing, or None.
        step: runs one step of the engine.
    """
    from vllm import SamplingParams

    # One token has to be sampled; it is not looked at, and greedy, since that takes no random numbers.
    params = SamplingParams(
        temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False, extra_args=dict(AS_REFERENCE)
    )
    keys = [f"score.{number}" for number in range(len(texts))]
    found: dict[str, RequestOutput] = {}
    try:
        for key, (prompt, answer) in zip(keys, texts, strict=True):
            engine.add_request(key, {"prompt_token_ids": [*prompt, *answer]}, params, lora_request=adapter)
        while len(found) < len(keys):
            found |= {output.request_id: output for output in step() if output.finished}
    finally:
        engine.abort_request([key for key in keys if key not in found])
    return [_last(found[key].prompt_logprobs or [], answer) for key, (_, answer) in zip(keys, texts, strict=True)]


def _last(told: Sequence[Any], answer: Sequence[int]) -> tuple[float, ...]:
    """Return what the last tokens of a text cost."""
    return tuple(each[token].logprob for each, token in zip(told[len(told) - len(answer) :], answer, strict=True))
