"""What a training run is told, as one checked value that is stored unmodified beside its results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trimtab.errors import ConfigError


class _Section(BaseModel):
    """Settings that refuse unknown names and cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AdapterConfig(_Section):
    """The small part that is trained.

    Args:
        kind: "lora" trains low-rank factors; "full" trains every weight of ``base``, which must then be a smaller LM.
        base: the LM under the adapter; the frozen base itself by default, which costs no second model.
        rank: of the low-rank factors.
        alpha: their scale is alpha / rank.
        targets: module names the factors sit on, or "all-linear".
    """

    kind: Literal["lora", "full"] = "lora"
    base: str | None = None
    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    targets: str | list[str] = "all-linear"


class PromptsConfig(_Section):
    """Where the training prompts come from.

    Args:
        source: "reviews" (built in), a .jsonl, .parquet or .txt file, or the id of a hub data set.
        column: of the prompt.
        split: of a hub data set.
        limit: use the first so many only.
    """

    source: str = "reviews"
    column: str = "prompt"
    split: str = "train"
    limit: int | None = Field(None, ge=1)


class RolloutConfig(_Section):
    """How answers are sampled in training. Lengths are in tokens."""

    max_new_tokens: int = Field(20, ge=1)
    min_new_tokens: int = Field(4, ge=0)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)


class CoefficientConfig(_Section):
    """The weight of the KL or entropy term, fixed or adapted towards a target.

    Args:
        coefficient: initial weight.
        target: the value to hold, in nats per token; None keeps the weight fixed.
        horizon: answers after which a constant error of 20 % or more has changed the weight by 20 %.
    """

    coefficient: float = Field(0.0, ge=0)
    target: float | None = Field(None, gt=0)
    horizon: int = Field(320, ge=1)


class GRPOConfig(_Section):
    """Group-relative policy optimisation: an answer's advantage is its reward relative to its prompt's other answers.

    Args:
        prompts: prompts a step.
        answers: answers a prompt, at least 2.
        epochs: optimiser steps on the same answers.
        clip: how far the probability ratio may leave 1 before its gradient stops.
    """

    name: Literal["grpo"] = "grpo"
    prompts: int = Field(8, ge=1)
    answers: int = Field(4, ge=2)
    epochs: int = Field(1, ge=1)
    clip: float = Field(0.2, gt=0)


class QuarkConfig(_Section):
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


class TrainConfig(_Section):
    """A training run.

    Args:
        base: built-in name, folder or hub id of the frozen model.
        approximate_base: a smaller model with the same tokens to stand in for the base in training.
        adapter: the small part that is trained.
        form: "anchored" trains base * (adapter / untrained adapter), which starts at the base exactly; "raw" trains
            base * adapter.
        strength: exponent of the adapter in training.
        prompts: where prompts come from.
        reward: a built-in name, ``module:function``, or a mapping that the rewards understand.
        algorithm: grpo or quark, with its settings.
        rollout: how answers are sampled.
        kl: weight of KL(tailored || base) in the loss.
        entropy: weight of the tailored policy's entropy in the loss (rewarded).
        stop_kl: stop when the mean KL of a step, in nats per token, is above this for three steps in a row.
        steps: optimiser steps.
        learning_rate: of Adam.
        warmup_steps: over which the learning rate rises.
        decay: whether it then falls linearly to a tenth.
        max_grad_norm: gradients are scaled down to this norm.
        micro_rows: answers a forward pass; gradients accumulate over a step's answers.
        checkpoint_every: steps.
        output: the run folder.
        seed: of everything random.
        dtype: of the frozen weights; trained parameters are float32.
        device: "auto", "cpu", "cuda", ...
    """

    base: str = "smollm2-135m"
    approximate_base: str | None = None
    adapter: AdapterConfig = AdapterConfig()
    form: Literal["anchored", "raw"] = "anchored"
    strength: float = Field(1.0, gt=0)
    prompts: PromptsConfig = PromptsConfig()
    reward: str | dict[str, Any] = "sentiment"
    algorithm: Annotated[GRPOConfig | QuarkConfig, Field(discriminator="name")] = GRPOConfig()
    rollout: RolloutConfig = RolloutConfig()
    kl: CoefficientConfig = CoefficientConfig()
    entropy: CoefficientConfig = CoefficientConfig()
    stop_kl: float | None = Field(None, gt=0)
    steps: int = Field(60, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    warmup_steps: int = Field(0, ge=0)
    decay: bool = False
    max_grad_norm: float = Field(1.0, gt=0)
    micro_rows: int = Field(8, ge=1)
    checkpoint_every: int = Field(20, ge=1)
    output: Path = Path("runs/guide")
    seed: int = Field(0, ge=0)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"

    @model_validator(mode="after")
    def _full_needs_its_own_weights(self) -> TrainConfig:
        if self.adapter.kind == "full" and self.adapter.base in (None, self.base, self.approximate_base):
            raise ValueError(
                "adapter.kind 'full' trains all weights of adapter.base, which must not be the base itself"
            )
        return self

    @staticmethod
    def read(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
        """Read a YAML file and apply ``key=value`` overrides, where a key is dotted (``adapter.rank=8``).

        Raises:
            ConfigError: the file or an override cannot be read, or a setting is unknown or out of range.
        """
        try:
            settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(
                given=f"{path}: {error}", expected="a YAML file with training settings", hint="see examples/train.yaml"
            ) from error
        if settings is not None and not isinstance(settings, dict):
            raise ConfigError(
                given=f"{path}, which holds a {type(settings).__name__}",
                expected="key: value lines",
                hint="see examples/train.yaml",
            )
        merged = dict(settings or {})
        for override in overrides:
            _apply(merged, override)
        return TrainConfig.of(merged, str(path))

    @staticmethod
    def of(settings: dict[str, Any], where: str = "the settings") -> TrainConfig:
        """Check settings.

        Raises:
            ConfigError: one is unknown or out of range; the message names it.
        """
        try:
            return TrainConfig.model_validate(settings)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise ConfigError(
                given=f"{name} = {first['input']!r} in {where}",
                expected=first["msg"],
                hint=f"the settings are {', '.join(TrainConfig.model_fields)}"
                if first["type"] == "extra_forbidden"
                else "change it in the file or with --set",
            ) from error

    def to_yaml(self) -> str:
        """Write every setting, defaults included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _apply(settings: dict[str, Any], override: str) -> None:
    """Put one ``a.b=value`` into nested settings."""
    key, equals, value = override.partition("=")
    names = key.split(".")
    if not equals or not all(names):
        raise ConfigError(
            given=f"--set {override}", expected="key=value, for instance adapter.rank=8", hint="add the = sign"
        )
    place = settings
    for name in names[:-1]:
        inner = place.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                given=f"--set {override}, where {name} is {inner!r}", expected="a section", hint="check the key"
            )
        place = inner
    try:
        place[names[-1]] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(given=f"--set {override}", expected="a YAML value", hint="quote it") from error
