"""Search on the command line: which shape, which value, and how what was found is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from rich.text import Text

from trimtab.cli.console import Talk
from trimtab.errors import ConfigError

if TYPE_CHECKING:
    from trimtab.decoding.candidates import Candidates
    from trimtab.decoding.hunt import Found
    from trimtab.decoding.shape import Shape
    from trimtab.values.value import Value

Method = Literal[
    "chunk_beam",
    "blockwise",
    "best_of_n",
    "deal",
    "rejection",
    "speculative_rejection",
    "smc",
    "args",
    "fudge",
    "rad",
    "cd",
    "vas",
]


def refuse_beside_search(n: int, draft: str | None) -> None:
    """Refuse options that a search would not heed.

    Raises:
        ConfigError: several answers are wanted, or drafts.
    """
    if n != 1:
        raise ConfigError(given=f"--search with -n {n}", expected="one best answer a prompt", hint="use --branches")
    if draft is not None:
        raise ConfigError(given=f"--search with --draft {draft}", expected="a search without drafts", hint="drop it")


def build_shape(
    method: Method,
    beams: int,
    branches: int,
    chunk: str | int,
    *,
    threshold: float | None = None,
    likelihood: float = 1.0,
    weight: float | None = None,
) -> Shape | Candidates:
    """Return the shape of a named method; each takes of the numbers what it needs.

    Raises:
        ConfigError: nothing is accepted without a threshold, ``chunk`` cannot be read, or there is a weight for a
            method that takes none.

    Example:
        >>> build_shape("best_of_n", beams=4, branches=16, chunk=5).rows
        16
    """
    from trimtab.decoding import candidates, shape
    from trimtab.decoding.boundary import read_boundary

    token_wise = {
        "args": candidates.args,
        "fudge": candidates.fudge,
        "rad": candidates.rad,
        "cd": candidates.cd,
        "vas": candidates.vas,
    }
    if method in token_wise:
        return token_wise[method](branches) if weight is None else token_wise[method](branches, weight)
    if weight is not None:
        raise ConfigError(
            given=f"--weight {weight} with --search {method}",
            expected=f"one of {', '.join(token_wise)}, whose values have a weight",
            hint="drop it",
        )
    ends = read_boundary(str(chunk))
    if method == "rejection":
        if threshold is None:
            raise ConfigError(
                given="--search rejection without --threshold",
                expected="the score above which everything is accepted",
                hint="pick one among the scores of a best_of_n search",
            )
        return shape.rejection(threshold, branches, ends)
    made: dict[Method, Callable[[], Shape]] = {
        "chunk_beam": lambda: shape.chunk_beam(beams, branches, ends),
        "blockwise": lambda: shape.blockwise(branches, ends),
        "best_of_n": lambda: shape.best_of_n(branches),
        "deal": lambda: shape.deal(beams, branches, ends, likelihood),
        "speculative_rejection": lambda: shape.speculative_rejection(beams, ends),
        "smc": lambda: shape.smc(beams, ends),
    }
    return made[method]()


def build_value(text: str | None, models: Mapping[str, str], *, dtype: str, device: str) -> Value:
    """Turn ``--value`` into a value.

    Args:
        text: "tuned / untuned" (two of the models), "reward:NAME", or the folder of a trained value.
        models: name to source.
        dtype: of the weights.
        device: where they go.

    Raises:
        ConfigError: there is none, or one of the pair is no model.
        ModelError: a model cannot be loaded.
    """
    from trimtab.policies.lm import LM
    from trimtab.rewards import load_reward
    from trimtab.values import LogRatio, PrefixValue, RewardValue

    if not text:
        raise ConfigError(
            given="--search without --value",
            expected="what answers are scored by",
            hint='--value "tuned / untuned", --value reward:sentiment, or --value FOLDER',
        )
    if text.startswith("reward:"):
        return RewardValue(load_reward(text.removeprefix("reward:")))
    names = [name.strip() for name in text.split(" / ")]
    if len(names) == 2:
        if missing := [name for name in names if name not in models]:
            raise ConfigError(
                given=f"--value {text!r} with the unknown model {missing[0]!r}",
                expected="two models that were named",
                hint=f"add --model {missing[0]}=SOURCE",
            )
        tuned, untuned = (LM.load(models[name], dtype=dtype, device=device, name=name) for name in names)
        return LogRatio(tuned, untuned)
    return PrefixValue.load(models.get(text, text), dtype=dtype, device=device)


def show(talk: Talk, policy: str, seed: int, found: Sequence[Found]) -> None:
    """Print the best answer to each prompt, or everything as JSON."""
    if talk.as_json:
        each = [
            {
                "hypotheses": [{**asdict(answer), "score": score} for answer, score in one.hypotheses],
                "trace": [asdict(node) for node in one.trace.nodes],
                "kl": one.kl,
            }
            for one in found
        ]
        talk.result({"policy": policy, "seed": seed, "found": each})
        return
    for one in found:
        answer, score = one.hypotheses[0]
        told = Text(answer.prompt, style="bold") + Text(answer.text) + Text(f"  [score {score:.3f}]", style="dim")
        talk.out.print(told)
