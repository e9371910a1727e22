"""What a reinforcement-learning run is told, as one checked value that is stored unmodified beside its results."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from trimtab.training.settings import AdapterShape, RunSettings, Section


class AdapterConfig(AdapterShape):
    """The small part that is trained, and what it sits on.

    Args:
        base: the LM under the adapter; the frozen base itself by default, which costs no second model. A "full"
            adapter must name it: a smaller LM, or the base, which is then fine-tuned as a copy (what adapters are to
            save; of use as an upper line in a comparison).
    """

    base: str | None = None


class PromptsConfig(Section):
    """Where the training prompts come from.

    Args:
        source: a built-in one ("reviews", "toxicity", "keywords", "open-ended", "dialogue-safety" or
            "knowledge-dialogue", always their training split), a .jsonl, .parquet or .txt file, or the id of a hub
            data set. "xsum:FILE" is a file in the form of a published set; ``forms.py`` has their names.
        column: of the prompt.
        split: of a hub data set.
        limit: use the first so many only.
        chat: whether a prompt is a user's turn in the base's chat format; the column ``query`` then keeps the turn.
    """

    source: str = "reviews"
    column: str = "prompt"
    split: str = "train"
    limit: int | None = Field(None, ge=1)
    chat: bool = False


class RolloutConfig(Section):
    """How answers are sampled in training. Lengths are in tokens.

    Args:
        max_new_tokens: longest answer.
        min_new_tokens: tokens before an answer may end.
        temperature: of the sampling.
        top_p: keep the smallest set of tokens with at least this much probability.
        constrained: share of the prompts, drawn anew at each sampling, whose answers must hold the words in the data's
            column "keywords": a list of words, or of lists of forms of which one is enough.
        ordered: whether they must hold them in order.
        inflect: whether other forms of a word count as the word.
    """

    max_new_tokens: int = Field(20, ge=1)
    min_new_tokens: int = Field(4, ge=0)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    constrained: float = Field(0.0, ge=0, le=1)
    ordered: bool = True
    inflect: bool = False


class CoefficientConfig(Section):
    """The weight of the KL term, fixed or adapted towards a target.

    Args:
        coefficient: initial weight.
        target: the value to hold, in nats per token; None keeps the weight fixed.
        horizon: answers after which a constant error of 20 % or more has changed the weight by 20 %.
    """

    coefficient: float = Field(0.0, ge=0)
    target: float | None = Field(None, gt=0)
    horizon: int = Field(320, ge=1)


class EntropyConfig(CoefficientConfig):
    """The weight of the entropy, rewarded above 0 and punished below.

    With minus the weight of the KL term, both together are that weight times the cross-entropy -E_pi[log p_base], which
    is lowest where all probability is on the likeliest answer. A small part of it holds the perplexity down.

    Args:
        coefficient: initial weight; not below 0 where there is a target.
        target: the value to hold, in nats per token; None keeps the weight fixed.
        horizon: answers after which a constant error of 20 % or more has changed the weight by 20 %.
    """

    coefficient: float = 0.0

    @model_validator(mode="after")
    def _targets_are_held_by_rewards(self) -> EntropyConfig:
        if self.target is not None and self.coefficient < 0:
            raise ValueError(
                f"coefficient {self.coefficient:g}, which punishes entropy, with a target of {self.target:g}"
            )
        return self


class MaskConfig(Section):
    """Keep the trained policy inside the nucleus of an older copy of itself (NLPO): a mask over the tokens.

    Answers are sampled inside it, and log-probabilities are renormalised over it.

    Args:
        top_p: probability that the nucleus holds at least.
        refresh_every: steps between copies.
    """

    top_p: float = Field(0.9, gt=0, lt=1)
    refresh_every: int = Field(20, ge=1)


class PolicyGradientConfig(Section):
    """What the algorithms share that reinforce sampled answers.

    Args:
        prompts: prompts a step.
        answers: answers a prompt.
        epochs: times that a step learns from its answers.
        clip: how far the probability ratio may leave 1 before its gradient stops.
        average: "answer" averages the loss over each answer's tokens first; "token" over all tokens, so that the
            gradient is the one of whole answers, up to its scale.
        mask: keep to the nucleus of an older copy; None does not.
    """

    prompts: int = Field(8, ge=1)
    answers: int = Field(4, ge=1)
    epochs: int = Field(1, ge=1)
    clip: float = Field(0.2, gt=0)
    average: Literal["answer", "token"] = "token"
    mask: MaskConfig | None = None


class GRPOConfig(PolicyGradientConfig):
    """Group-relative policy optimisation: an answer's advantage is its reward relative to its prompt's other answers.

    Args:
        answers: answers a prompt, at least 2.
    """

    name: Literal["grpo"] = "grpo"
    answers: int = Field(4, ge=2)
    average: Literal["answer", "token"] = "answer"


class RLOOConfig(PolicyGradientConfig):
    """REINFORCE, leave one out: an answer's advantage is its reward less the mean of its prompt's other answers.

    Args:
        answers: answers a prompt, at least 2.
    """

    name: Literal["rloo"] = "rloo"
    answers: int = Field(4, ge=2)


class ReinforceConfig(PolicyGradientConfig):
    """REINFORCE with a baseline.

    Args:
        baseline: "batch" is the mean reward of the step; "running" the mean of all steps before, which also works with
            one answer a step.
    """

    name: Literal["reinforce"] = "reinforce"
    prompts: int = Field(32, ge=1)
    answers: int = Field(1, ge=1)
    baseline: Literal["batch", "running"] = "batch"

    @model_validator(mode="after")
    def _beats_something(self) -> ReinforceConfig:
        if self.baseline == "batch" and self.prompts * self.answers == 1:
            raise ValueError("more than one answer a step, or baseline: running; a lone answer is its own mean")
        return self


class PPOConfig(PolicyGradientConfig):
    """Proximal policy optimisation: a value head on the guide says what each token's prefix was worth.

    Args:
        rows: answers an optimiser step.
        kl_as: the KL penalty is a part of each token's "reward", estimated by log(pi / pi_base), or of the "loss",
            exact, as in the other algorithms.
        discount: of rewards a token later.
        decay: lambda of the generalised advantages; 1 trusts returns alone, 0 the value head.
        whiten: whether advantages are shifted and scaled to mean 0 and variance 1 over a step's tokens.
        value_coefficient: weight of the value head's loss.
        value_clip: how far a value may move from what it was at sampling, in units of the reward.
    """

    name: Literal["ppo"] = "ppo"
    prompts: int = Field(32, ge=1)
    answers: int = Field(1, ge=1)
    epochs: int = Field(4, ge=1)
    rows: int = Field(16, ge=1)
    kl_as: Literal["reward", "loss"] = "reward"
    discount: float = Field(1.0, gt=0, le=1)
    decay: float = Field(0.95, ge=0, le=1)
    whiten: bool = True
    value_coefficient: float = Field(0.1, ge=0)
    value_clip: float = Field(0.2, gt=0)


class QuarkConfig(Section):
    """Quantised reward conditioning: imitate answers sorted into quantiles, each behind its own control token.

    Args:
        quantiles: number of control tokens; 0 is the best.
        explore_every: steps between refreshes of the pool.
        explore_prompts: prompts sampled at a refresh, one answer each.
        rows: pool answers a step.
    """

    name: Literal["quark"] = "quark"
    quantiles: int = Field(5, ge=2)
    explore_every: int = Field(10, ge=1)
    explore_prompts: int = Field(128, ge=1)
    rows: int = Field(32, ge=1)


AlgorithmConfig = Annotated[
    GRPOConfig | RLOOConfig | ReinforceConfig | PPOConfig | QuarkConfig, Field(discriminator="name")
]


class TrainConfig(RunSettings):
    """A training run.

    Args:
        base: built-in name, folder or hub id of the frozen model.
        approximate_base: a smaller model with the same tokens to stand in for the base in training (IPA-), such as a
            distilled copy (IPA*, see :func:`~trimtab.training.distill.train_distill`).
        base_top_k: let only the k likeliest tokens of the base be known, as a service does that returns no more.
        adapter: the small part that is trained.
        form: "anchored" trains base * (adapter / untrained adapter), which starts at the base exactly; "raw" trains
            base * adapter.
        strength: exponent of the adapter in training.
        prompts: where prompts come from.
        reward: a built-in name, ``module:function``, or a mapping that the rewards understand.
        algorithm: grpo, rloo, reinforce, ppo or quark, by its ``name``, with its settings.
        rollout: how answers are sampled.
        rollout_engine: who samples them: the "local" engine, or "vllm", with the guide's weights replaced in place
            between steps.
        vllm: arguments of vLLM's own, by their names in its ``EngineArgs``; ``{tensor_parallel_size: 2}``.
        kl: weight of KL(tailored || base) in the loss.
        entropy: weight of the tailored policy's entropy in the loss; below 0 punishes it.
        stop_kl: stop when the mean KL of a step, in nats per token, is above this for three steps in a row.
        steps: optimiser steps.
        learning_rate: of Adam.
        warmup_steps: over which the learning rate rises.
        decay: whether it then falls linearly to a tenth.
        max_grad_norm: gradients are scaled down to this norm.
        micro_rows: answers a forward pass; gradients accumulate over a step's answers.
        checkpoint_every: steps.
    """

    base: str = "smollm2-135m"
    approximate_base: str | None = None
    base_top_k: int | None = Field(None, ge=1)
    adapter: AdapterConfig = AdapterConfig()
    form: Literal["anchored", "raw"] = "anchored"
    strength: float = Field(1.0, gt=0)
    prompts: PromptsConfig = PromptsConfig()
    reward: str | dict[str, Any] = "sentiment"
    algorithm: AlgorithmConfig = GRPOConfig()
    rollout: RolloutConfig = RolloutConfig()
    rollout_engine: Literal["local", "vllm"] = "local"
    vllm: dict[str, Any] = Field(default_factory=dict)
    kl: CoefficientConfig = CoefficientConfig()
    entropy: EntropyConfig = EntropyConfig()
    stop_kl: float | None = Field(None, gt=0)
    steps: int = Field(60, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    warmup_steps: int = Field(0, ge=0)
    decay: bool = False
    max_grad_norm: float = Field(1.0, gt=0)
    micro_rows: int = Field(8, ge=1)
    checkpoint_every: int = Field(20, ge=1)

    @model_validator(mode="after")
    def _keywords_need_every_token(self) -> TrainConfig:
        if self.rollout.constrained and self.algorithm.name != "quark" and self.algorithm.mask is not None:
            raise ValueError("rollout.constrained 0 with algorithm.mask, which may leave no token of a keyword")
        if self.rollout.constrained and self.base_top_k is not None:
            raise ValueError("rollout.constrained 0 with base_top_k, which may leave no token of a keyword")
        return self

    @model_validator(mode="after")
    def _arguments_have_an_engine(self) -> TrainConfig:
        if self.vllm and self.rollout_engine != "vllm":
            raise ValueError("arguments of vLLM with rollout_engine: vllm")
        return self

    @model_validator(mode="after")
    def _full_says_whose_weights(self) -> TrainConfig:
        if self.adapter.kind == "full" and self.adapter.base is None:
            raise ValueError(
                "adapter.kind 'full' with adapter.base, all of whose weights are trained: a smaller model with the "
                "same tokens, or the base by its name, to fine-tune a copy of it"
            )
        return self
