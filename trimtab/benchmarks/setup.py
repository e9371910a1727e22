"""The models that the suites compare, each built once and only when a suite asks for it.

Guides have random weights, scaled so that products stay sane: speed does not depend on what a guide has learned. The
models of the baselines are objects of their own, not frozen, as users of ``transformers`` have them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from trimtab.assets import built_in_models, get_model, quiet_transformers
from trimtab.decoding.pool import decode
from trimtab.decoding.request import Request, Row, Settings
from trimtab.decoding.sampling import Sampling
from trimtab.errors import ConfigError
from trimtab.policies.base import Policy
from trimtab.policies.lm import LM
from trimtab.policies.vector import LowRank, Origin, Vector

GUIDE_LAYERS = 8
RANK = 16
NOISE = 0.02
"""Standard deviation of a random adapter's second factor."""

SHORT_PROMPT = 8
LONG_PROMPT = 512

TEXT = (
    "The harbour was quiet when the last boat came in, and the keeper of the light walked down to meet it. She carried "
    "a lamp in one hand and a letter in the other, and she did not hurry, because nothing on the island ever did. The "
    "men on the boat had been away for three weeks. They had followed the herring north until the nights were short "
    "and cold, and now they stood in the bow and counted the windows of the village to see who was still awake. "
)


def in_rows(rows: int) -> str:
    """Say how many rows there are.

    Example:
        >>> in_rows(1), in_rows(8)
        ('1 row', '8 rows')
    """
    return "1 row" if rows == 1 else f"{rows} rows"


def _silent(message: str) -> None:
    """Say nothing."""


@dataclass
class Setup:
    """What a run of benchmarks works on.

    Args:
        model: built-in name, path of a folder, or hub id of the base.
        tokens: new tokens of every decode.
        repeats: rounds that a median is taken over.
        seed: of random weights and of sampling.
        dtype: of the weights.
        device: where they are.
        note: is told what is going on.

    Raises:
        ConfigError: fewer than 2 tokens or 1 round, or more tokens than fit in the base's context.
        ModelError: the base cannot be loaded.
    """

    model: str = "smollm2-135m"
    tokens: int = 64
    repeats: int = 5
    seed: int = 0
    dtype: str = "auto"
    device: str = "auto"
    note: Callable[[str], None] = _silent

    def __post_init__(self) -> None:
        if self.tokens < 2:
            raise ConfigError(
                given=f"tokens={self.tokens}",
                expected="at least 2 new tokens: a step's time is the difference of two decodes",
                hint="leave it at 64",
            )
        if self.repeats < 1:
            raise ConfigError(given=f"repeats={self.repeats}", expected="at least 1 round", hint="leave it at 5")

    # -- ours --------------------------------------------------------------------------------------------------------

    @cached_property
    def base(self) -> LM:
        """The base."""
        self.note(f"loading {self.model}")
        base = LM.load(self.model, dtype=self.dtype, device=self.device, name="base")
        limit = base.context_length
        if limit is not None and SHORT_PROMPT + self.tokens > limit:
            raise ConfigError(
                given=f"tokens={self.tokens}",
                expected=f"at most {limit - SHORT_PROMPT}, what the context of {self.model} leaves",
                hint="lower --tokens",
            )
        return base

    @cached_property
    def lora(self) -> LM:
        """A LoRA guide on all linear layers of the base's own trunk."""
        return _with_lora(self.base, self.seed, lambda: self._first_adapter)

    @cached_property
    def second_lora(self) -> LM:
        """Another one."""
        return _with_lora(self.base, self.seed + 1, lambda: _random_lora(self.plain, self.seed + 1))

    def vector(self, number: int) -> Vector:
        """Return one of several random low-rank vectors on all linear layers."""
        prefix = "base_model.model."
        weights = _random_lora(self.plain, self.seed + number)
        factors = {
            name.removeprefix(prefix).removesuffix(".lora_A.weight"): LowRank(
                down, weights[name.replace("lora_A", "lora_B")]
            )
            for name, down in weights.items()
            if ".lora_A." in name
        }
        trunk = self.base.trunk
        return Vector(factors, {}, Origin(trunk.identity, trunk.source), f"vector{number}")

    @cached_property
    def guide(self) -> LM:
        """The base's first layers with its head, as a model of its own."""
        return LM.of(copy.deepcopy(self.plain_guide), self.base.vocabulary, name="guide")

    @cached_property
    def tuned(self) -> LM:
        """The base with the first LoRA guide merged in, as a model of its own."""
        return LM.of(copy.deepcopy(self.plain_tuned), self.base.vocabulary, name="tuned")

    @cached_property
    def untuned(self) -> LM:
        """A copy of the base, as a model of its own."""
        return LM.of(copy.deepcopy(self.plain), self.base.vocabulary, name="untuned")

    # -- theirs ------------------------------------------------------------------------------------------------------

    @cached_property
    def plain(self) -> PreTrainedModel:
        """The base as ``transformers`` loads it."""
        source, weights = self.base.trunk.source, self.base.trunk.model
        path = get_model(source) if source in {each.name for each in built_in_models()} else source
        with quiet_transformers():
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(path, dtype=weights.dtype)
        return model.to(self.base.trunk.device).eval()

    @cached_property
    def plain_tuned(self) -> PreTrainedModel:
        """The base with the first LoRA guide merged in."""
        return _merged(self.plain, self._first_adapter)

    @cached_property
    def plain_untuned(self) -> PreTrainedModel:
        """A copy of the base."""
        return copy.deepcopy(self.plain)

    @cached_property
    def plain_guide(self) -> PreTrainedModel:
        """The base's first layers with its head."""
        return _first_layers(self.plain, self.guide_layers)

    # -- work --------------------------------------------------------------------------------------------------------

    @property
    def guide_layers(self) -> int:
        """Layers of the small guide: 8, or half of a base that has not many more."""
        layers: int = self.base.trunk.model.config.num_hidden_layers
        return max(1, min(GUIDE_LAYERS, layers // 2))

    @property
    def text(self) -> str:
        """One short prompt as a text."""
        return " ".join(TEXT.split()[:SHORT_PROMPT])

    @property
    def long_prompt(self) -> list[int]:
        """One prompt of 512 tokens, or what the base's context leaves."""
        limit = self.base.context_length
        return self.prompts(1, LONG_PROMPT if limit is None else min(LONG_PROMPT, limit - self.tokens))[0]

    def prompts(self, rows: int, length: int = SHORT_PROMPT) -> list[list[int]]:
        """Return prompts of equal length and different content, so that no side pays for padding."""
        ids = self.base.vocabulary.encode(TEXT)
        ids = ids * ((rows + length) // len(ids) + 1)
        return [ids[row : row + length] for row in range(rows)]

    def decode(  # noqa: PLR0913 -- every option by keyword
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        tokens: int | None = None,
        *,
        n: int = 1,
        greedy: bool = False,
        knobs: Sequence[Mapping[str, float]] | None = None,
        draft: Policy | None = None,
        metered: bool = True,
    ) -> list[Row]:
        """Decode with our own engine; no row ends before its last token."""
        length = self.tokens if tokens is None else tokens
        values = [{}] * len(prompts) if knobs is None else knobs
        settings = Settings(
            sampling=Sampling(temperature=0.0 if greedy else 1.0),
            min_new_tokens=length,
            max_new_tokens=length,
            seed=self.seed,
        )
        requests = [
            Request(tuple(prompt), n, bound, occurrence)
            for occurrence, (prompt, bound) in enumerate(zip(prompts, values, strict=True))
        ]
        return decode(policy, requests, settings, draft=draft, metered=metered)

    @cached_property
    def _first_adapter(self) -> dict[str, Tensor]:
        return _random_lora(self.plain, self.seed)


def _random_lora(model: PreTrainedModel, seed: int) -> dict[str, Tensor]:
    """Draw the factors of an adapter on every linear layer but the output layer, under the names that PEFT uses."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, layer in _linear_layers(model).items():
        rows, columns = layer.weight.shape
        first = torch.randn(RANK, columns, generator=generator) / columns**0.5
        weights[f"base_model.model.{name}.lora_A.weight"] = first
        weights[f"base_model.model.{name}.lora_B.weight"] = NOISE * torch.randn(rows, RANK, generator=generator)
    return weights


def _linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    head = model.get_output_embeddings()
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear) and layer is not head}


def _with_lora(base: LM, seed: int, weights: Callable[[], dict[str, Tensor]]) -> LM:
    """Put a random adapter on the base's trunk, unless a run before this one has done so."""
    name = f"bench-{seed}"
    if not base.trunk.has_adapter(name):
        config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear")
        base.trunk.add_adapter(name, config, weights())
    return replace(base, adapter=name, label=name)


def _merged(model: PreTrainedModel, adapter: Mapping[str, Tensor]) -> PreTrainedModel:
    """Return a copy of a model with an adapter added to its weights."""
    merged = copy.deepcopy(model)
    with torch.no_grad():
        for name, layer in _linear_layers(merged).items():
            first, second = (adapter[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "AB")
            layer.weight.add_((second @ first).to(layer.weight))
    return merged


def _first_layers(model: PreTrainedModel, layers: int) -> PreTrainedModel:
    """Return a model of the first layers of another, with a copy of its embeddings and head."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layers
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        config.layer_types = kinds[:layers]
    small: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    weights = model.state_dict()
    small.load_state_dict({name: weights[name] for name in small.state_dict()})
    return small.to(model.device).eval()
