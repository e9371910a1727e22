"""What lm-evaluation-harness says of a policy, checked: the model's arguments, and how a task's answers are decoded.

Works on plain values; knows nothing of the harness's own classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from trimtab.decoding.request import Settings
from trimtab.decoding.sampling import Sampling
from trimtab.errors import ConfigError
from trimtab.policies.base import Policy
from trimtab.policies.lm import LM
from trimtab.policies.model_source import ModelSource
from trimtab.policies.policy_file import PolicyFile, read_policy_file
from trimtab.policies.vocabulary import Vocabulary

_Section = TypeVar("_Section", bound=BaseModel)


def _pairs(given: Any) -> Any:
    """Read ``name=value;name=value``; anything else is left as it is."""
    if not isinstance(given, str):
        return given
    return {name.strip(): value for name, _, value in (part.partition("=") for part in given.split(";") if part)}


_Source = Annotated[str, Field(min_length=1)]
_Sources = Annotated[dict[str, _Source], BeforeValidator(_pairs)]


class Arguments(BaseModel):
    """What ``--model_args`` may hold; mappings may be written ``"base=smollm2-135m;guide=runs/guide"``.

    Args:
        policy: a policy file, or an expression.
        models: name in the expression to source, on top of a file's own.
        vectors: name to folder, in the same way.
        knobs: name to value; an expression's knobs need no declaration.
        dtype: of the weights.
        device: where they go.
        batch_size: rows that run at once.
        max_length: tokens of a window; None for the policy's context.
        seed: of sampled answers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    policy: _Source
    models: _Sources = Field(default_factory=dict)
    vectors: _Sources = Field(default_factory=dict)
    knobs: Annotated[dict[str, float], BeforeValidator(_pairs)] = Field(default_factory=dict)
    dtype: str = "auto"
    device: str = "auto"
    batch_size: int = 1
    max_length: int | None = None
    seed: int = 0

    def build(self) -> Policy:
        """Load the models and combine them.

        Raises:
            ConfigError: the policy file is missing or wrong, or a name is none.
            ExpressionError: the expression cannot be read, or mentions what is not named.
            ModelError: a model cannot be loaded.
        """
        return self._file().build(partial(LM.load, dtype=self.dtype, device=self.device))

    def _file(self) -> PolicyFile:
        """Read the policy file, or make one of the expression."""
        if not self.policy.endswith((".yaml", ".yml")):
            knobs: dict[str, dict[str, float]] = {name: {} for name in self.knobs}
            content = {"models": self.models, "vectors": self.vectors, "knobs": knobs, "policy": self.policy}
            return read(PolicyFile, content, "model_args")
        file = read_policy_file(self.policy)
        models = {name: ModelSource(source=source) for name, source in self.models.items()}
        added = {"models": {**file.models, **models}, "vectors": {**file.vectors, **self.vectors}}
        return file.model_copy(update=added)


class Generation(BaseModel):
    """What a task's ``generation_kwargs`` may hold, once the harness has settled their names and ``do_sample``.

    Args:
        do_sample: whether answers are sampled; otherwise they are greedy.
        max_gen_toks: longest answer, in tokens.
        until: texts that end an answer.
        temperature: of sampled answers, as the settings after it, which are those of ``Policy.generate``.
        num_beams: 1; there is no beam search.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    do_sample: bool
    max_gen_toks: int
    until: list[str]
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    min_new_tokens: int = 0
    num_beams: Literal[1] = 1

    def settings(self, vocabulary: Vocabulary, seed: int) -> Settings:
        """Return how answers are decoded; special tokens, which have no text in an answer, end it by their ids.

        Raises:
            ConfigError: a setting is out of its range.
        """
        known = {} if vocabulary.tokenizer is None else vocabulary.tokenizer.added_tokens_decoder
        special = {token.content: number for number, token in known.items() if token.special}
        temperature = self.temperature if self.do_sample else 0.0
        return Settings.of(
            Sampling(temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty),
            min_new_tokens=self.min_new_tokens,
            max_new_tokens=self.max_gen_toks,
            stop=[special.get(text, text) for text in self.until if text],
            seed=seed,
        )


def read(section: type[_Section], content: Mapping[str, Any], where: str) -> _Section:
    """Check settings.

    Args:
        section: what they must be.
        content: name to value.
        where: where they come from, for messages.

    Raises:
        ConfigError: one is missing, unknown or wrong.

    Example:
        >>> read(Arguments, {"policy": "base^s", "models": "base=smollm2-135m", "knobs": "s=1.5"}, "model_args").knobs
        {'s': 1.5}
    """
    try:
        return section.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(
            given=f"{where}: {'.'.join(map(str, first['loc']))} in {dict(content)}",
            expected=first["msg"].removeprefix("Value error, "),
            hint=f"known are {', '.join(section.model_fields)}",
        ) from error
