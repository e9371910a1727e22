"""What clients send, checked: OpenAI's fields, vLLM's common ones beside them, and trimtab's own under one name.

Unknown fields at the top are left aside, and told in a header; unknown fields in our own part are mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from trimtab.errors import ConfigError
from trimtab.policies.search_method import Method

Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenIds = Annotated[list[Count], Field(min_length=1, fail_fast=True)]

_CHANGING = {
    *("functions", "function_call", "audio", "continue_final_message", "prompt_logprobs", "logits_processors"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "use_beam_search"),
    *("ignore_eos", "bad_words", "allowed_token_ids", "length_penalty"),
}
"""Fields of other servers that would change the answer, and do nothing here."""


class Own(BaseModel):
    """A part of ours: nothing unknown in it, nothing turned into another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class SearchWish(Own):
    """How an answer is searched for; what is left out is the policy file's, or the default.

    Args:
        method: the shape of the search.
        value: ``tuned / untuned``, two of the operator's models; the policy file's own by default.
        beams: hypotheses that are kept.
        branches: continuations of each.
        chunk: where chunks end: a number of tokens, ``line`` or ``sentence``.
        threshold: of rejection.
        likelihood: of deal.
        trace: whether the answer carries all that was tried.
    """

    method: Method | None = None
    value: Annotated[str, Field(min_length=1, max_length=2000)] | None = None
    beams: Annotated[int, Field(ge=1)] | None = None
    branches: Annotated[int, Field(ge=1)] | None = None
    chunk: Annotated[int, Field(ge=1)] | Annotated[str, Field(max_length=40)] | None = None
    threshold: float | None = None
    likelihood: Annotated[float, Field(ge=0)] | None = None
    trace: bool = False


class Steering(Own):
    """How a request is steered.

    Args:
        knobs: knob to value.
        policy: a policy over the names that the operator has loaded, in the place of the served one.
        details: each token comes with this many alternatives, and with what each factor added to them.
        search: search for the answer instead of sampling it; ``true`` searches as the policy file says.
    """

    knobs: dict[Annotated[str, Field(max_length=80)], float] = Field(default_factory=dict, max_length=64)
    policy: Annotated[str, Field(min_length=1)] | None = None
    details: Annotated[int, Field(ge=0)] | None = None
    search: SearchWish | Literal[True] | None = None


class StreamOptions(BaseModel):
    """OpenAI's: whether the last piece of a stream says how many tokens there were."""

    model_config = ConfigDict(strict=True)

    include_usage: bool = False


class Question(BaseModel):
    """The fields that completions and chats share. Lengths are in tokens.

    Args:
        model: a name of ``/v1/models``, or one with knobs: ``policy@strength=1.5``.
        trimtab: how it is steered.
        knobs: the same as ``trimtab.knobs``.
        n: answers.
        max_tokens: of an answer.
        min_tokens: before an answer may end.
        temperature: 0 is greedy.
        top_p: keep the likeliest tokens up to this probability.
        top_k: keep the k likeliest tokens; 0 or -1 keeps all.
        min_p: keep tokens with this share of the likeliest one's probability.
        repetition_penalty: above 1 discourages repetition.
        stop: texts that end an answer.
        stop_token_ids: tokens that do.
        seed: the same one gives the same answer.
        stream: whether the answer comes piece by piece.
        stream_options: see there.
    """

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)

    model: Annotated[str, Field(max_length=400)]
    trimtab: Steering = Steering()
    knobs: dict[Annotated[str, Field(max_length=80)], float] | None = Field(default=None, max_length=64)
    n: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    stop: str | Annotated[list[str], Field(fail_fast=True, max_length=1000)] | None = None
    stop_token_ids: Annotated[list[Count], Field(fail_fast=True, max_length=1000)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @model_validator(mode="after")
    def _does_what_it_says(self) -> Self:
        if self.presence_penalty or self.frequency_penalty:
            raise ValueError("no presence_penalty and no frequency_penalty; repetition_penalty is what there is")
        if self.logit_bias:
            raise ValueError("no logit_bias; a guide in the policy is how tokens are made likelier here")
        extra = self.model_extra or {}
        if changing := sorted(name for name in _CHANGING if extra.get(name)):
            raise ValueError(f"no {changing[0]}, which would change the answer and is not known here")
        if extra.get("tool_choice") not in (None, "none", "auto") or extra.get("add_generation_prompt") is False:
            raise ValueError("no tool_choice and no add_generation_prompt: false; answers are texts")
        return self

    @property
    def steering(self) -> Steering:
        """Our part, with the knobs at the top in it.

        Raises:
            ConfigError: a knob is in both places.
        """
        if self.knobs is None:
            return self.trimtab
        if both := sorted(self.knobs.keys() & self.trimtab.knobs.keys()):
            raise ConfigError(
                given=f"the knob {both[0]!r} in knobs and in trimtab.knobs", expected="one of both", hint="drop one"
            )
        return self.trimtab.model_copy(update={"knobs": {**self.knobs, **self.trimtab.knobs}})

    @property
    def ignored(self) -> Sequence[str]:
        """The names of fields that mean nothing here."""
        return sorted(self.model_extra or {})


class CompletionQuestion(Question):
    """A request to ``/v1/completions``.

    Args:
        prompt: a text, several, or token ids.
        logprobs: the log-probability of each token is told, with this many alternatives.
        echo: not supported.
        best_of: not supported beside n.
        suffix: not supported.
    """

    prompt: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=1000, fail_fast=True)]
        | TokenIds
        | Annotated[list[TokenIds], Field(min_length=1, max_length=1000, fail_fast=True)]
    )
    logprobs: Annotated[int, Field(ge=0)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None

    @model_validator(mode="after")
    def _continues_a_prompt(self) -> Self:
        if self.echo:
            raise ValueError("no echo; the prompt is not told again")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError('best_of equal to n; {"trimtab": {"search": {"method": "best_of_n"}}} searches')
        if self.suffix:
            raise ValueError("no suffix; texts are continued, not filled in")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, each a text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [each for each in self.prompt if isinstance(each, int)]
        return [ids] if ids else [each for each in self.prompt if not isinstance(each, int)]

    @property
    def alternatives(self) -> int | None:
        """How many likely tokens each token is told with, None for no log-probabilities."""
        return self.logprobs


class TextPart(BaseModel):
    """A piece of a message."""

    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message of a chat.

    Args:
        role: who says it; ``developer`` is ``system``.
        content: a text, or texts.
    """

    model_config = ConfigDict(extra="ignore", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True, max_length=1000)]

    @property
    def text(self) -> str:
        """All that is said."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatQuestion(Question):
    """A request to ``/v1/chat/completions``.

    Args:
        messages: of the chat so far.
        max_completion_tokens: the newer name of ``max_tokens``.
        logprobs: whether the log-probability of each token is told.
        top_logprobs: with how many alternatives.
        tools: not supported.
        response_format: text alone.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _answers_with_text(self) -> Self:
        if self.tools:
            raise ValueError("no tools; answers are texts")
        if self.response_format and self.response_format.get("type") != "text":
            raise ValueError("the response_format text; answers are not constrained to a schema")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("logprobs: true beside top_logprobs")
        return self

    @property
    def alternatives(self) -> int | None:
        """How many likely tokens each token is told with, None for no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TokenizeQuestion(BaseModel):
    """A request to ``/tokenize``: a text, or a chat as it is shown to the models."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=1000, fail_fast=True)] | None = None

    @model_validator(mode="after")
    def _either(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("either prompt or messages")
        return self


class DetokenizeQuestion(BaseModel):
    """A request to ``/detokenize``."""

    model_config = ConfigDict(strict=True)

    model: str | None = None
    tokens: Annotated[list[Count], Field(fail_fast=True)]


class ScoreQuestion(BaseModel):
    """A request to ``/v1/score``: answers to one prompt, for the reward that is loaded."""

    model_config = ConfigDict(strict=True)

    prompt: str
    completions: Annotated[list[str], Field(min_length=1, max_length=256, fail_fast=True)]


def explained(error: ValidationError) -> ConfigError:
    """Return what is wrong with a body, for its sender.

    Example:
        >>> try:
        ...     CompletionQuestion.model_validate_json('{"model": "m", "prompt": "a", "n": 0}')
        ... except ValidationError as error:
        ...     print(explained(error).given)
        n: 0
    """
    found = error.errors(include_url=False, include_context=False)
    first = min(found, key=lambda mistake: (mistake["type"] != "extra_forbidden", len(mistake["loc"])))
    place = ".".join(str(step) for step in first["loc"] if "[" not in str(step))
    expected = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    shown = "" if first["type"] in ("missing", "extra_forbidden", "value_error") else f": {first['input']!r}"[:120]
    return ConfigError(
        given=f"{place or 'the body'}{shown}",
        expected={"missing": "this field", "extra_forbidden": "no such field"}.get(first["type"], expected),
        hint="/openapi.json has the fields",
    )
