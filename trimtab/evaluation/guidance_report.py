"""The tables and the picture of an experiment with value guidance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from trimtab.errors import RewardError
from trimtab.evaluation.bootstrap import Interval, bootstrap
from trimtab.evaluation.compare import Comparison, Result
from trimtab.evaluation.markdown import markdown_table


def scores(comparison: Comparison) -> dict[str, dict[str, list[float]]]:
    """Return every judge's score of every answer, by judge and method.

    Raises:
        RewardError: a judge had no score for an answer; methods could not be compared prompt by prompt.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for judge, each in product(comparison.judges, comparison.results):
        known = [score for score in each.judged[judge] if score is not None]
        if len(known) < len(each.judged[judge]):
            raise RewardError(
                given=f"{len(each.judged[judge]) - len(known)} answers of {each.name} that {judge} has no score for",
                expected="a score for every answer",
                hint="use another judge",
            )
        found.setdefault(judge, {})[each.name] = known
    return found


def leads(found: Mapping[str, Sequence[float]], winner: str) -> dict[str, Interval]:
    """Return by how much one method leads each other, prompt by prompt, with 95 % intervals.

    Example:
        >>> print(leads({"a": [1.0] * 30, "b": [0.0] * 30}, "a")["b"])
        1.000 [1.000, 1.000]
    """
    return {
        name: bootstrap([a - b for a, b in zip(found[winner], values, strict=True)])
        for name, values in found.items()
        if name != winner
    }


def best_of_n_bound(n: int) -> float:
    """Return the most that best-of-n can be from its policy in KL, ``log n - (n - 1) / n``, in nats an answer.

    Example:
        >>> round(best_of_n_bound(16), 2)
        1.84

    Reference: Beirami et al. (2024), Theoretical Guarantees on the Best-of-n Alignment Policy.
    """
    return math.log(n) - (n - 1) / n


def table(comparison: Comparison, judged: Mapping[str, Mapping[str, Sequence[float]]]) -> str:
    """Return a Markdown table: a line a method, judges with 95 % intervals.

    Args:
        comparison: the methods.
        judged: judge to method to the scores of its answers.
    """
    names = list(judged)
    head = ["method", *names, "training reward", "KL, nats a token", "perplexity", "distinct-2", "repetition"]
    head += ["tokens", "seconds"]
    lines = []
    for each in comparison.results:
        kl = _cell(each.kl) if each.kl is not None else f"({_cell(each.proposal_kl)})"
        judges = [str(bootstrap(judged[name][each.name])) for name in names]
        rest = [f"{each.reward:.3f}", kl, f"{each.perplexity:.1f}", f"{each.distinct_2:.3f}", f"{each.repetition:.3f}"]
        lines.append([each.name, *judges, *rest, f"{each.proposed:,}", f"{each.seconds:.0f}"])
    return markdown_table(head, lines)


def draw(sweeps: Mapping[str, Comparison], base: tuple[float, float], judge: str, target: Path) -> None:
    """Draw a judge's score over KL, where it is known, and over the tokens that were computed.

    Args:
        sweeps: what was swept, by method.
        base: tokens an answer of the base, and its score on the prompts of the sweeps.
        judge: whose scores.
        target: an .svg file.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, x in ((left, 0.0), (right, base[0])):
        axes.plot([x], [base[1]], "k*", markersize=10, label="base")
    for name, comparison in sweeps.items():
        known = [(_kl(each), each) for each in comparison.results]
        with_kl = [(kl, each) for kl, each in known if kl is not None]
        if with_kl:
            left.plot([kl for kl, _ in with_kl], [each.judges[judge] for _, each in with_kl], "o-", label=name)
        cost = sorted(comparison.results, key=lambda each: each.proposed)
        points = [each.proposed / len(each.answers) for each in cost]
        right.plot(points, [each.judges[judge] for each in cost], "o-", label=name)
        for at, each in zip(points, cost, strict=True):
            right.annotate(each.name, (at, each.judges[judge]), fontsize=6, xytext=(3, 3), textcoords="offset points")
    left.set(xlabel="KL to the base, nats a token (best of N: its bound)", ylabel=f"judge: {judge}, mean")
    right.set(xlabel="tokens proposed an answer", xscale="log")
    right.margins(x=0.12)
    right.xaxis.set_major_locator(LogLocator(base=2, subs=(1.0,), numticks=20))
    right.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
    right.xaxis.set_minor_formatter(NullFormatter())
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(target, metadata={"Date": None})


def to_dict(comparison: Comparison, judged: Mapping[str, Mapping[str, Sequence[float]]]) -> list[dict[str, Any]]:
    """Return the measurements of a comparison as plain values, answers included."""
    return [
        {
            "name": each.name,
            "policy": each.policy,
            "judges": {judge: vars(bootstrap(found[each.name])) for judge, found in judged.items()},
            "reward": each.reward,
            "kl": each.kl,
            "proposal_kl": each.proposal_kl,
            "perplexity": each.perplexity,
            "distinct_2": each.distinct_2,
            "repetition": each.repetition,
            "proposed": each.proposed,
            "seconds": each.seconds,
            "answers": [{"prompt": answer.prompt, "text": answer.text} for answer in each.answers],
        }
        for each in comparison.results
    ]


def write_json(target: Path, content: Mapping[str, Any]) -> None:
    """Write measurements."""
    target.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _cell(kl: float | None) -> str:
    return "\N{EN DASH}" if kl is None else f"{kl:.3f}"


def _kl(result: Result) -> float | None:
    """Return the KL of a method in nats a token: measured, or the bound of best-of-N."""
    if result.kl is not None:
        return result.kl
    name, _, number = result.name.partition(" = ")
    return best_of_n_bound(int(number)) / result.length if name == "N" else None
