"""The options that several verbs share, and how their texts are read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trimtab.errors import ConfigError, ExpressionError

if TYPE_CHECKING:
    from trimtab.decoding.drafters import Draft
    from trimtab.policies.base import Policy
    from trimtab.policies.lm import LM
    from trimtab.policies.policy_file import Decoding

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Seed = Annotated[int | None, typer.Option(help="Of everything random; the same seed gives the same result.")]
Models = Annotated[list[str] | None, typer.Option("--model", "-m", help="A name in the expression: base=smollm2-135m")]
Knobs = Annotated[list[str] | None, typer.Option("--knob", "-k", help="A knob's value: strength=1.5")]
Dtype = Annotated[str, typer.Option(help="Of the weights: auto, float32, bfloat16, float16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]

SUFFIXES = (".yaml", ".yml")


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """Read ``name=value`` texts.

    Raises:
        ConfigError: one has no name or no value, or a name comes twice.

    Example:
        >>> pairs(["base=smollm2-135m"], "--model")
        {'base': 'smollm2-135m'}
    """
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not re.fullmatch(r"[^\W\d]\w*", name) or not value or name in found:
            raise ConfigError(
                given=f"{option} {text}",
                expected=f"{option} name=value, each name once, of letters, digits and _",
                hint=f"for instance {option} {'base=smollm2-135m' if option == '--model' else 'strength=1.5'}",
            )
        found[name] = value
    return found


def knob_values(texts: Sequence[str]) -> dict[str, float]:
    """Read ``--knob name=value`` texts.

    Raises:
        ConfigError: a value is no number.
    """
    values = {}
    for name, value in pairs(texts, "--knob").items():
        try:
            values[name] = float(value)
        except ValueError as error:
            raise ConfigError(given=f"--knob {name}={value}", expected="a number", hint="write 1.5") from error
    return values


def build_policy(
    text: str, models: Mapping[str, str], knobs: Mapping[str, float], *, dtype: str, device: str
) -> tuple[Policy, Decoding]:
    """Turn a policy file or an expression into a policy and its decoding settings.

    Args:
        text: path of a ``.yaml`` file, or an expression.
        models: name to source; on top of a file's own.
        knobs: values on the command line; an expression's knobs need no declaration.
        dtype: of the weights.
        device: where they go.

    Raises:
        ExpressionError: the expression cannot be read, or a model in it was not named.
        ConfigError: the policy file is missing or wrong.
        ModelError: a model cannot be loaded.
    """
    from trimtab.policies.expression import names, parse
    from trimtab.policies.knob import Knob
    from trimtab.policies.lm import LM
    from trimtab.policies.policy_file import Decoding, ModelSource, read_policy_file

    def load(source: str) -> LM:
        return LM.load(source, dtype=dtype, device=device)

    if text.endswith(SUFFIXES):
        file = read_policy_file(Path(text))
        given = {name: ModelSource(source=source) for name, source in models.items()}
        file = file.model_copy(update={"models": {**file.models, **given}})
        return file.build(load), file.decoding
    mentioned = names(text)
    missing = [name for name in mentioned if name not in models and name not in knobs]
    if missing:
        raise ExpressionError(
            given=f"{missing[0]!r} in {text!r}, which was not named",
            expected="a model or a knob for every name in the expression",
            hint=f"add --model {missing[0]}=SOURCE, or --knob {missing[0]}=VALUE",
        )
    loaded = {
        name: LM.load(source, dtype=dtype, device=device, name=name)
        for name, source in models.items()
        if name in mentioned
    }
    declared = {name: Knob(name, 1.0) for name in knobs if name in mentioned}
    return parse(text, loaded, declared), Decoding()


def build_draft(text: str, models: Mapping[str, str], *, dtype: str, device: str) -> Draft:
    """Turn ``--draft`` into who drafts.

    Args:
        text: "auto", "lookup", a name among the models, or a source.
        models: name to source.
        dtype: of the weights.
        device: where they go.

    Raises:
        ModelError: the model cannot be loaded.
    """
    from trimtab.policies.lm import LM

    if text == "auto":
        return "auto"
    if text == "lookup":
        return "lookup"
    return LM.load(models.get(text, text), dtype=dtype, device=device)
