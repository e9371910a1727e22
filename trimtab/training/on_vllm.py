"""Answers for training from vLLM: one engine a run, whose weights are replaced in place before every sampling.

vLLM samples from what it computes: by its own kernels and, in 16 bits, with the adapter rounded into its base, which
the trainee keeps apart. So an answer's tokens have two log-probabilities. The loss's ratio gets the trainee's: it is
then 1 at a step's first update, as with local answers, and moves by what the updates do alone. That the answers came
from a slightly other policy remains, as a bias of that size. It is measured in every step, as the mean over tokens of
|log pi_vllm - log pi_trainee|, and stops the run where the weights in vLLM cannot be the trainee's.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimtab.decoding.request import Request, Row, Settings
from trimtab.engines.base import drain
from trimtab.engines.vllm.engine import VLLMEngine
from trimtab.engines.vllm.push import EXTENSION, lay_out_loaded, weights_of
from trimtab.engines.vllm.serve import on_cpu, require_vllm
from trimtab.errors import ConfigError, RunError
from trimtab.policies.advance import init, step
from trimtab.policies.base import Policy, Prompt
from trimtab.training.config import TrainConfig
from trimtab.training.rollouts import Block
from trimtab.training.trainee import Trainee

LIMIT = 0.5
"""Mean |log pi_vllm - log pi_trainee|, in nats, above which a run stops; .05 is what bfloat16 does to SmolLM2."""

SHARE = 0.3
"""Share of the memory that vLLM takes unless it is told another; the trainee needs the rest."""


@dataclass(frozen=True)
class Drawn:
    """What a sampling measured.

    Args:
        mismatch: mean over tokens of |log pi_vllm - log pi_trainee|, in nats.
        push_seconds: spent on new weights.
    """

    mismatch: float
    push_seconds: float


class VLLMRollouts:
    """Draws a trainee's answers by vLLM; a context manager that stops it.

    Args:
        trainee: whose policy is sampled.
        config: of the run.
        longest: tokens of the longest prompt.

    Raises:
        ConfigError: vLLM refuses its arguments, or cannot run the policy.
    """

    def __init__(self, trainee: Trainee, config: TrainConfig, longest: int) -> None:
        self._trainee, self._micro_rows = trainee, config.micro_rows
        self._dtype: torch.dtype = trainee.base.trunk.model.dtype
        layout, leaves = lay_out_loaded(trainee.policy(), self._dtype)
        self._trained = leaves.index(trainee.guide)
        told = _arguments(longest + config.rollout.max_new_tokens) | config.vllm
        self._engine = VLLMEngine(layout, told | {"worker_extension_cls": EXTENSION})
        self._leaves = leaves
        self._due = {number for number, leaf in enumerate(leaves) if leaf.adapter is not None} | {self._trained}
        self.latest: Drawn | None = None

    def __enter__(self) -> VLLMRollouts:
        return self

    def __exit__(self, *ended: object) -> None:
        self._engine.close()

    def __call__(self, policy: Policy, requests: Sequence[Request], settings: Settings) -> list[Row]:
        """Draw answers from the trainee as it is now.

        Args:
            policy: the trainee's own.
            requests: prompts and numbers of answers.
            settings: how they are sampled.

        Returns:
            The answers, with log-probabilities under the trainee.

        Raises:
            RunError: vLLM has died, broke an answer, or does not compute what the trainee computes.
        """
        started = time.perf_counter()
        for number in self._due:
            self._engine.push(number, weights_of(self._leaves[number], self._dtype))
        self._due = {self._trained}  # the others never change
        pushed = time.perf_counter() - started
        told = drain(self._engine, [(request, settings) for request in requests])
        for update in (update for updates in told for update in updates):
            if update.error is not None:
                raise update.error
        answers = [
            (request, update.answer)
            for request, updates in zip(requests, told, strict=True)
            for update in updates
            if update.answer is not None
        ]
        tokens = [(request.prompt, answer.token_ids) for request, answer in answers]
        scored = log_probs_of(self._trainee, tokens, self._micro_rows)
        mismatch = mean_difference([answer.log_probs for _, answer in answers], scored)
        check_mismatch(mismatch)
        self.latest = Drawn(mismatch, pushed)
        return [
            Row(request, place, list(answer.token_ids), log_probs, [], [], answer.finish_reason)
            for place, ((request, answer), log_probs) in enumerate(zip(answers, scored, strict=True))
        ]


def check_rollouts(config: TrainConfig, ranks: int) -> None:
    """Refuse what vLLM cannot sample, before a model is loaded.

    Args:
        config: of the run.
        ranks: processes that train together.

    Raises:
        ConfigError: it cannot; the message says the way out.
    """
    algorithm, local = config.algorithm, "set rollout_engine to local"
    refused = {
        "algorithm quark, whose control tokens vLLM does not know": algorithm.name == "quark",
        "algorithm.mask, which cuts tokens by a second policy": algorithm.name != "quark"
        and algorithm.mask is not None,
        "base_top_k, which cuts tokens by the base": config.base_top_k is not None,
        "rollout.constrained, whose keywords need a mask over tokens": config.rollout.constrained > 0,
    }
    for given in (reason for reason, met in refused.items() if met):
        raise ConfigError(
            given=f"rollout_engine vllm with {given}", expected="a product of LMs, freely sampled", hint=local
        )
    if ranks > 1:
        raise ConfigError(
            given=f"rollout_engine vllm with {ranks} training processes",
            expected="one process, whose vLLM may use several GPUs",
            hint="start it without a launcher, with --set vllm.tensor_parallel_size=2; or set rollout_engine to local",
        )
    require_vllm()


def log_probs_of(trainee: Trainee, texts: Sequence[tuple[Prompt, Prompt]], rows: int) -> list[list[float]]:
    """Return the log-probabilities of answers' tokens under the trainee, bit for bit as the loss computes them.

    Args:
        trainee: what is trained.
        texts: prompts and answers, in token ids.
        rows: answers a forward pass.
    """
    found: list[list[float]] = []
    trainee.require_grad(True)  # so that it is the pass that learns, not the faster one that samples
    try:
        for at in range(0, len(texts), rows):
            few = texts[at : at + rows]
            chosen = _chosen(trainee.policy(), few).detach().tolist()
            found += [row[: len(answer)] for row, (_, answer) in zip(chosen, few, strict=True)]
    finally:
        trainee.require_grad(False)
    return found


def _chosen(policy: Policy, texts: Sequence[tuple[Prompt, Prompt]]) -> Tensor:
    """Return the log-probabilities of the tokens of B answers, (B, T), in one pass."""
    tokens = Block.of([answer for _, answer in texts]).tokens
    own = [tuple(prompt) for prompt, _ in texts]
    different = list(dict.fromkeys(own))  # answers to one prompt share its pass
    places = [different.index(prompt) for prompt in own]
    (first,), state = init([policy], different)
    (rest,), _ = step([policy], state.select(places), tokens[:, :-1])
    log_probs = torch.cat([first[places].unsqueeze(1), rest], 1)
    return log_probs.gather(2, tokens.to(log_probs.device).unsqueeze(2)).squeeze(2)


def mean_difference(first: Sequence[Sequence[float]], second: Sequence[Sequence[float]]) -> float:
    """Return the mean distance of the numbers of answers' tokens.

    Example:
        >>> mean_difference([[1.0, 2.0], [3.0]], [[1.0, 2.5], [4.0]])
        0.5
    """
    pairs = [pair for one, two in zip(first, second, strict=True) for pair in zip(one, two, strict=True)]
    return sum(abs(a - b) for a, b in pairs) / len(pairs)


def check_mismatch(mismatch: float) -> None:
    """Refuse to learn from answers of another policy.

    Raises:
        RunError: they are.

    Example:
        >>> check_mismatch(0.02)
        >>> check_mismatch(3.0)
        Traceback (most recent call last):
        trimtab.errors.RunError: given: answers whose log-probabilities in vLLM and in the trainee differ by 3 nats
        expected: at most 0.5 a token: the weights in vLLM are not those of the trainee
        try: set rollout_engine to local, or dtype to float32; the last checkpoint can be resumed
    """
    if not mismatch <= LIMIT or not math.isfinite(mismatch):
        raise RunError(
            given=f"answers whose log-probabilities in vLLM and in the trainee differ by {mismatch:.3g} nats",
            expected=f"at most {LIMIT:g} a token: the weights in vLLM are not those of the trainee",
            hint="set rollout_engine to local, or dtype to float32; the last checkpoint can be resumed",
        )


def _arguments(longest: int) -> dict[str, Any]:
    """Return vLLM's arguments for a run whose texts have so many tokens."""
    # In this process: in one of its own it would end at Ctrl-C, before the step that is to be finished.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")  # or it tells of every step
    told: dict[str, Any] = {"max_model_len": longest, "gpu_memory_utilization": SHARE}
    return told | ({"enforce_eager": True} if on_cpu() else {})
