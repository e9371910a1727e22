"""What the runs are told that train small models without reinforcement: SFT, copies, pairs, GenARM, values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from trimtab.training.config import PromptsConfig, RolloutConfig
from trimtab.training.settings import AdapterShape, RunSettings, Section


class AnswersSettings(Section):
    """Scored answers to learn from.

    Args:
        source: "sampled", or a .jsonl or .parquet file or hub data set with the columns prompt, answer and, where the
            reward is not to be asked, reward.
        split: of a hub data set.
        policy: who writes sampled answers: a policy file, built-in name, folder or hub id; the base by default.
        prompts: what is answered.
        n: answers a prompt.
        rollout: how they are sampled.
        reward: scores them: a built-in name, ``module:function``, or a mapping that the rewards understand.
    """

    source: str = "sampled"
    split: str = "train"
    policy: str | None = None
    prompts: PromptsConfig = PromptsConfig(limit=1000)
    n: int = Field(4, ge=1)
    rollout: RolloutConfig = RolloutConfig(max_new_tokens=50)
    reward: str | dict[str, Any] = "sentiment"


class PairsSettings(Section):
    """Preference pairs.

    Args:
        source: "sampled" (the best and the worst of n answers), or a .jsonl or .parquet file or hub data set.
        split: of a hub data set.
        prompt: column of the prompt.
        chosen: column of the better answer.
        rejected: column of the worse one.
        limit: use the first so many pairs only.
        answers: what sampled pairs are made of.
        margin: smallest difference of rewards within a sampled pair.
    """

    source: str = "sampled"
    split: str = "train"
    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    limit: int | None = Field(None, ge=1)
    answers: AnswersSettings = AnswersSettings()
    margin: float = Field(0.0, ge=0)


class TextsSettings(Section):
    """Texts to imitate.

    Args:
        source: "reviews" (built in), a .jsonl, .parquet or .txt file, or the id of a hub data set.
        column: of the text.
        split: of a hub data set.
        limit: use the first so many only.
    """

    source: str = "reviews"
    column: str = "text"
    split: str = "train"
    limit: int | None = Field(None, ge=1)


class FitSettings(RunSettings):
    """What every such training is told.

    Args:
        adapter: whether low-rank factors are trained, or all weights.
        epochs: passes over the data.
        rows: examples an optimiser step.
        micro_rows: examples a forward pass; gradients accumulate.
        learning_rate: its highest value; it rises linearly and falls linearly to 0.
        warmup: share of the steps in which it rises.
        weight_decay: of AdamW.
        max_grad_norm: gradients are scaled down to this norm.
        holdout: share of the prompts that is kept from training to measure the result.
        checkpoint_every: steps.
        autocast: compute in bfloat16, whatever the dtype of the trained weights; not with dtype float32.
    """

    adapter: AdapterShape = AdapterShape()
    epochs: int = Field(1, ge=1)
    rows: int = Field(16, ge=1)
    micro_rows: int = Field(16, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    holdout: float = Field(0.1, ge=0, lt=1)
    checkpoint_every: int = Field(50, ge=1)
    autocast: bool = True

    @property
    def in_bfloat16(self) -> bool:
        """Whether forward passes are computed in bfloat16."""
        return self.autocast and self.dtype != "float32"


class SmallSettings(FitSettings):
    """What the training of any small model is told.

    Args:
        base: built-in name, folder or hub id of the small model.
        tailors: the large model that the result is meant to steer, for the policy file; the small one by default.
    """

    base: str = "smollm2-135m"
    tailors: str | None = None


class SFTSettings(SmallSettings):
    """Supervised fine-tuning on texts.

    Args:
        layers: keep only so many of the base's first layers, or the ones with these numbers, which makes a small model
            of a large one; a few of the last ones among them need less training.
        texts: what is imitated.
        max_tokens: length of a block of text; texts are joined, an end token after each, and cut into blocks.
    """

    layers: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=0)], ...] | None = None
    texts: TextsSettings = TextsSettings()
    max_tokens: int = Field(128, ge=2)
    output: Path = Path("runs/sft")

    @model_validator(mode="after")
    def _shallow_models_are_whole(self) -> SFTSettings:
        if self.layers is not None and self.adapter.kind != "full":
            raise ValueError("adapter.kind 'full' with layers: an adapter would be loaded on all layers of its base")
        return self


class DistillSettings(SmallSettings):
    """Distillation of a policy into a small model.

    Args:
        policy: what is imitated: a policy file, built-in name, folder or hub id.
        top_k: cut it to its k likeliest tokens, as a service does that returns no more.
        layers: keep only so many of the base's first layers, or the ones with these numbers.
        signal: "samples" learns from the policy's answers alone, "tokens" from its distribution at each of their
            tokens.
        prompts: what the policy answers.
        n: answers a prompt.
        rollout: how they are sampled.
    """

    policy: str = "smollm2-135m"
    top_k: int | None = Field(None, ge=1)
    layers: Annotated[int, Field(ge=1)] | tuple[Annotated[int, Field(ge=0)], ...] | None = None
    signal: Literal["samples", "tokens"] = "tokens"
    prompts: PromptsConfig = PromptsConfig(limit=1000)
    n: int = Field(4, ge=1)
    rollout: RolloutConfig = RolloutConfig(max_new_tokens=50, min_new_tokens=0)
    adapter: AdapterShape = AdapterShape(kind="full")
    output: Path = Path("runs/distilled")

    @model_validator(mode="after")
    def _copies_are_whole(self) -> DistillSettings:
        if self.adapter.kind != "full":
            raise ValueError("adapter.kind 'full': guides are trained on a copy, which must be a whole model")
        _refuse_constraints(self.rollout)
        return self


class AbsorbSettings(FitSettings):
    """Absorption of a guide that needs a stream of its own into a plain adapter.

    Args:
        policy: a policy file in which the guide stands.
        guide: its name there; by default the only one that starts from a control token or has a prompt view.
        reward: what the loss of reward is measured in: a built-in name, ``module:function``, or a mapping that the
            rewards understand; the guide's training reward by default.
        prompts: what the policy answers.
        n: answers a prompt.
        rollout: how they are sampled.
        adapter: its shape where the guide has no adapter; one that has is absorbed into the shape of its own.
    """

    policy: Path = Path("runs/guide/policy.yaml")
    guide: str | None = None
    reward: str | dict[str, Any] | None = None
    prompts: PromptsConfig = PromptsConfig(limit=1000)
    n: int = Field(4, ge=1)
    rollout: RolloutConfig = RolloutConfig(max_new_tokens=50, min_new_tokens=0)
    holdout: float = Field(0.1, gt=0, lt=1)
    output: Path = Path("runs/absorbed")

    @model_validator(mode="after")
    def _absorbs_into_another_adapter(self) -> AbsorbSettings:
        if self.adapter.kind != "lora":
            raise ValueError("adapter.kind 'lora': the guide becomes an adapter on its own trunk")
        if self.policy.resolve().is_relative_to(self.output.resolve()):
            raise ValueError("an output folder that the policy file is not in; its own would be replaced")
        _refuse_constraints(self.rollout)
        return self


class PreferenceSettings(SmallSettings):
    """Preference optimisation with DPO or IPO.

    Args:
        pairs: what is preferred to what.
        beta: weight of the KL to the untuned model; the regularisation tau of IPO.
    """

    pairs: PairsSettings = PairsSettings()
    beta: float = Field(0.1, gt=0)
    output: Path = Path("runs/tuned")

    @model_validator(mode="after")
    def _pair_shares_a_trunk(self) -> PreferenceSettings:
        if self.adapter.kind != "lora":
            raise ValueError("adapter.kind 'lora': the untuned model is the tuned one with its adapter switched off")
        return self


class GenARMSettings(SmallSettings):
    """An autoregressive reward model.

    Args:
        pairs: what is preferred to what.
        beta: scale of the log-probabilities in the loss.
    """

    pairs: PairsSettings = PairsSettings()
    beta: float = Field(0.05, gt=0)
    output: Path = Path("runs/genarm")


class ValueSettings(SmallSettings):
    """A prefix value.

    Args:
        answers: what is learned from.
        head: "factored" ties the head to the token embeddings, so that it says something of tokens it has rarely
            seen; "free" has a row of its own for every token.
        target: what a prefix is regressed on: "fudge" (the answer's reward), "td" (TD(lambda)), "cd_q" (the expected
            value of the next token under the policy that writes the answers), "monte_carlo" (the mean reward of fresh
            continuations).
        decay: lambda of TD(lambda).
        cuts: of "monte_carlo": prefixes an answer.
        continuations: of "monte_carlo": continuations a prefix.
        rounds: with more than one, later rounds also learn from answers of the policy that the value guides.
        strength: exponent of the value in later rounds.
    """

    answers: AnswersSettings = AnswersSettings()
    head: Literal["factored", "free"] = "factored"
    target: Literal["fudge", "td", "cd_q", "monte_carlo"] = "fudge"
    decay: float = Field(0.95, ge=0, le=1)
    cuts: int = Field(2, ge=1)
    continuations: int = Field(4, ge=1)
    rounds: int = Field(1, ge=1)
    strength: float = Field(1.0, gt=0)
    output: Path = Path("runs/value")

    @model_validator(mode="after")
    def _policy_is_known(self) -> ValueSettings:
        if self.answers.source != "sampled" and (self.rounds > 1 or self.target in ("cd_q", "monte_carlo")):
            raise ValueError(
                "answers.source 'sampled' for the targets cd_q and monte_carlo and for more than one round, which ask "
                "the policy that writes the answers; or the target fudge or td"
            )
        return self


def _refuse_constraints(rollout: RolloutConfig) -> None:
    if rollout.constrained:
        raise ValueError("rollout.constrained 0: what is imitated is what the policy writes by itself")
