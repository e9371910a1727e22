"""The options that several verbs share, and how their texts are read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trimtab.errors import ConfigError
from trimtab.policies.search_method import Method

if TYPE_CHECKING:
    from trimtab.decoding.drafters import Draft

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Seed = Annotated[int | None, typer.Option(help="Of everything random; the same seed gives the same result.")]
Vectors = Annotated[
    list[str] | None, typer.Option("--vector", help="A vector in the expression: medical=vectors/medical")
]
Models = Annotated[list[str] | None, typer.Option("--model", "-m", help="A name in the expression: base=smollm2-135m")]
Knobs = Annotated[list[str] | None, typer.Option("--knob", "-k", help="A knob's value: strength=1.5")]
Dtype = Annotated[str, typer.Option(help="Of the weights: auto, float32, bfloat16, float16.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Engine = Annotated[Literal["local", "vllm"], typer.Option(help="What runs it; vllm needs vLLM beside it.")]
Searched = Annotated[
    Literal[Method, "none"] | None,
    typer.Option(
        "--search", help="Search instead of sampling; needs a value. none samples whatever a policy file says."
    ),
]
Scorer = Annotated[
    str | None,
    typer.Option(
        "--value", help='Scores unfinished answers: "tuned / untuned", reward:NAME, or the folder of a value.'
    ),
]
Beams = Annotated[int | None, typer.Option(help="Of a search: hypotheses that are kept; 4 by default.")]
Branches = Annotated[
    int | None,
    typer.Option(help="Of a search: continuations of each, N of best-of-N, tries, or candidates a token; 4."),
]
Chunk = Annotated[
    str | None,
    typer.Option(help="Of a search: where chunks end, a number of tokens (5), line, sentence, or entropy:NATS."),
]
Threshold = Annotated[float | None, typer.Option(help="Of rejection: what scores above it is accepted.")]
Likelihood = Annotated[
    float | None, typer.Option(help="Of deal: weight of the log-probability in a score; 1 by default.")
]
Weight = Annotated[float | None, typer.Option(help="Of the value in args, fudge, rad, cd and vas.")]

SUFFIXES = (".yaml", ".yml")

_EXAMPLES = {
    "--model": "base=smollm2-135m",
    "--vector": "medical=vectors/medical",
    "--knob": "strength=1.5",
    "--target": "medical=expert",
}


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
                hint=f"for instance {option} {_EXAMPLES[option]}",
            )
        found[name] = value
    return found


def weighted(text: str) -> tuple[str, float]:
    """Read FOLDER or FOLDER=WEIGHT.

    Raises:
        ConfigError: the weight is no finite number.
    """
    folder, mark, weight = text.rpartition("=")
    try:
        value = float(weight) if mark else 1.0
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or not (folder or not mark):
        raise ConfigError(given=text, expected="FOLDER=WEIGHT, or FOLDER", hint="for instance vectors/medical=0.7")
    return (folder, value) if mark else (text, value)


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
