"""The ``search:`` block of a policy file, checked without a model; values and shapes are made of it elsewhere."""

from __future__ import annotations

from collections.abc import Container
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from trimtab.errors import ConfigError
from trimtab.policies.search_method import Method, TokenWise


class SearchSettings(BaseModel):
    """How answers are searched for.

    Args:
        method: the shape of the search.
        value: what scores answers so far: ``tuned / untuned`` (two models), ``reward:NAME``, or a model or the folder
            of a trained value.
        beams: hypotheses that are kept.
        branches: continuations of each, N of best-of-N, tries of a rejection, or candidates a token.
        chunk: where chunks end: a number of tokens, ``line``, ``sentence``, or ``entropy:NATS``; words are read when a
            shape is made of it.
        threshold: of rejection, which needs one: what scores above it is accepted.
        likelihood: of deal: weight of the log-probability in a score.
        weight: of the value where tokens are chosen among candidates; None is the method's own.

    Example:
        >>> SearchSettings(method="best_of_n", value="reward:sentiment", branches=16).branches
        16
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    method: Method
    value: str = Field(min_length=1)
    beams: int = Field(default=4, ge=1)
    branches: int = Field(default=4, ge=1)
    chunk: Annotated[int, Field(ge=1)] | str = 5
    threshold: float | None = Field(default=None, validate_default=True)
    likelihood: float = Field(default=1.0, ge=0)
    weight: float | None = None

    @field_validator("chunk", mode="before")
    @classmethod
    def _count(cls, given: Any) -> Any:
        return int(given) if isinstance(given, str) and given.isdecimal() else given

    @field_validator("threshold")
    @classmethod
    def _needed(cls, given: float | None, others: ValidationInfo) -> float | None:
        if given is None and others.data.get("method") == "rejection":
            raise ValueError("a score above which everything is accepted, such as one of a best_of_n search")
        return given

    @field_validator("weight")
    @classmethod
    def _weighed(cls, given: float | None, others: ValidationInfo) -> float | None:
        method = others.data.get("method", "args")
        if given is not None and method not in get_args(TokenWise):
            raise ValueError(f"one of {', '.join(get_args(TokenWise))} as the method, whose values have a weight")
        return given


def pair_in(value: str) -> tuple[str, str] | None:
    """Return the names of ``tuned / untuned``, or nothing where a value is no pair.

    Example:
        >>> pair_in("tuned / untuned"), pair_in("runs/value")
        (('tuned', 'untuned'), None)
    """
    names = [name.strip() for name in value.split(" / ")]
    return (names[0], names[1]) if len(names) == 2 else None


def check_pair(value: str, models: Container[str], hint: str) -> None:
    """Refuse a pair of which one is no model.

    Args:
        value: what scores.
        models: the names there are.
        hint: how to add one.

    Raises:
        ConfigError: there is no model of that name.
    """
    missing = [name for name in pair_in(value) or () if name not in models]
    if missing:
        raise ConfigError(
            given=f"the value {value!r} with the unknown model {missing[0]!r}",
            expected="two models that were named",
            hint=hint.format(missing[0]),
        )
