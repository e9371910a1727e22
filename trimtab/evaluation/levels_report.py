"""The tables of an experiment with preference vectors: results.json, report.md and two pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from trimtab.evaluation.level_results import (
    Answered,
    Attempt,
    Curves,
    LevelResults,
    Way,
    combination_name,
    leakage,
)
from trimtab.evaluation.levels_charts import draw_combinations, draw_curves
from trimtab.evaluation.markdown import markdown_table
from trimtab.rewards.level import LEVELS
from trimtab.vectors.preference import Preference

_SIBLING = "vectors, on a sibling"


def write_levels(results: LevelResults, folder: Path) -> Path:
    """Write all measurements of the experiment, tables and pictures of them.

    Args:
        results: the experiment.
        folder: where to; what is there is replaced.

    Returns:
        The report.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    domains = list(results.curves.points)
    draw_curves(results.curves, results.dera, folder / "curves.svg")
    draw_combinations(all_ways(results), domains, folder / "combinations.svg")
    (folder / "results.json").write_text(results.model_dump_json(indent=1) + "\n", encoding="utf-8")
    report = folder / "report.md"
    report.write_text("\n".join(_page(results, domains)), encoding="utf-8")
    return report


def all_ways(results: LevelResults) -> dict[str, Way]:
    """Return the ways to combinations on the base, and that on the sibling."""
    return {**results.ways, _SIBLING: results.transfer.way}


def _page(results: LevelResults, domains: Sequence[str]) -> Iterator[str]:
    counts = ", ".join(f"{count} {domain}" for domain, count in results.questions.items())
    yield f"# Preference levels of {results.settings['base']} by vectors\n"
    yield (
        f"A *share* is the part of unseen questions ({counts}) whose answer of a level is the likeliest of three by "
        "the mean log-probability of a token. A combination is *reached* when in every domain no level has a greater "
        "share than the wanted one; its *accuracy* is the mean share of the wanted levels.\n"
    )
    yield "## Combinations\n"
    yield _ways(results)
    yield from _notes(results)
    yield "![combinations](combinations.svg)\n"
    yield _combinations(all_ways(results), domains)
    if results.joint:
        yield "Against an adapter that was trained for the combination alone:\n"
        yield _joint(results, domains)
    yield "## One coefficient at a time\n"
    yield "Shares of expert / generic / avoidance in the vector's own domain.\n"
    yield _own({"weights": results.curves, "logits (DeRa)": results.dera, "sibling": results.transfer.curves})
    yield "Every vector on the questions of every domain; dotted lines are on the logits:\n"
    yield "![curves](curves.svg)\n"
    yield "Change in the share of expert answers from coefficient 0 to 1, by the domain of the questions:\n"
    yield _leaks({"weights": results.curves, "logits (DeRa)": results.dera}, domains)
    yield from _speed(results)
    yield "## Generated answers\n"
    yield "Shares of answers that the rules of the level judge call so; the rest is no prose.\n"
    yield _generated(results.generated.answered)
    yield from _making(results)


def _ways(results: LevelResults) -> str:
    lines = [
        [
            name,
            f"{way.reached} of {len(way.attempts)}",
            "" if way.searched is None else str(way.searched),
            f"{way.accuracy:.2f}",
            f"{way.preparing:.0f}",
            f"{way.measuring:.0f}",
            f"{way.prompt_tokens:.0f}",
        ]
        for name, way in all_ways(results).items()
    ]
    return markdown_table(
        [
            "way",
            "reached",
            "on the questions of the search",
            "accuracy",
            "preparing, s",
            "measuring, s",
            "prompt tokens",
        ],
        lines,
    )


def _notes(results: LevelResults) -> Iterator[str]:
    once = sum(each.seconds for each in results.vectors.values())
    yield (
        f"*Preparing* is the search for the coefficients of all combinations, or the training of the adapters named "
        f"below; the vectors themselves took {once:.0f} s of training, once. Vectors on the logits and on a sibling "
        "use the coefficients that were found for vectors. Soups are averages of the aligned models. What is prompted "
        "by domain has to be told the domain of every question; one system prompt and all vectors are not told.\n"
    )


def _combinations(ways: Mapping[str, Way], domains: Sequence[str]) -> str:
    """Return a line a combination: the coefficients, and the accuracy of every way, bold where it is reached."""
    first = next(iter(ways.values()))
    by_name = {
        name: {combination_name(each.target, domains): each for each in way.attempts} for name, way in ways.items()
    }
    lines = []
    for attempt in first.attempts:
        name = combination_name(attempt.target, domains)
        coefficients = ", ".join(f"{attempt.at[domain]:.3g}" for domain in domains)
        lines.append([name, coefficients, *(_accuracy(found.get(name)) for found in by_name.values())])
    return markdown_table([f"{', '.join(domains)}", "coefficients", *ways], lines)


def _accuracy(attempt: Attempt | None) -> str:
    if attempt is None:
        return ""
    return f"**{attempt.accuracy:.2f}**" if attempt.reached else f"{attempt.accuracy:.2f}"


def _joint(results: LevelResults, domains: Sequence[str]) -> str:
    vectors = {combination_name(each.target, domains): each for each in results.ways["vectors"].attempts}
    trained = zip(results.ways["joint training"].attempts, results.joint, strict=True)
    lines = [
        [
            name := combination_name(attempt.target, domains),
            _accuracy(vectors[name]),
            _accuracy(attempt),
            f"{run.seconds:.0f}",
        ]
        for attempt, run in trained
    ]
    return markdown_table([", ".join(domains), "vectors", "joint training", "its training, s"], lines)


def _own(curves: Mapping[str, Curves]) -> str:
    amounts = sorted(
        {each.at[vector] for every in curves.values() for vector in every.points for each in every.points[vector]}
    )
    lines = []
    for where, every in curves.items():
        for vector, points in every.points.items():
            known = {each.at[vector]: _three(each.found, vector) for each in points}
            lines.append([vector, where, *(known.get(amount, "") for amount in amounts)])
    return markdown_table(["vector", "on", *(f"{amount:g}" for amount in amounts)], lines)


def _three(found: Preference, domain: str) -> str:
    return " / ".join(f"{found.shares[domain][level]:.2f}" for level in LEVELS)


def _leaks(curves: Mapping[str, Curves], domains: Sequence[str]) -> str:
    lines = [
        [vector, where, *(f"{changes[domain]:+.2f}" for domain in domains)]
        for where, every in curves.items()
        for vector, changes in leakage(every, 1.0, "expert").items()
    ]
    return markdown_table(["vector", "on", *domains], lines)


def _speed(results: LevelResults) -> Iterator[str]:
    each = results.speed
    yield "## Speed of the search\n"
    yield (
        f"{each.points} points over the same questions: {each.together:.1f} s together, nothing merged; "
        f"{each.merging + each.reloading + each.measuring:.1f} s one after another ({each.merging:.1f} s merging and "
        f"writing, {each.reloading:.1f} s reading, {each.measuring:.1f} s measuring), {each.ratio:.1f} times as long. "
        f"Mean leads differ by at most {each.difference:.4f} nats a token.\n"
    )


def _generated(answered: Sequence[Answered]) -> str:
    lines = [
        [each.domain, each.writer, each.wanted, *(f"{each.share(level):.2f}" for level in LEVELS), f"{each.kl:.2f}"]
        for each in answered
    ]
    return markdown_table(["questions", "by", "coefficient or level asked for", *LEVELS, "KL, nats a token"], lines)


def _making(results: LevelResults) -> Iterator[str]:
    yield "## Data and training\n"
    lines = [
        [
            name,
            str(each.asked),
            str(each.kept),
            *(f"{each.reached[level]:.2f}" for level in LEVELS),
            f"{each.seconds:.0f}",
        ]
        for name, each in results.data.items()
    ]
    yield markdown_table(["questions", "asked", "kept", *LEVELS, "seconds"], lines)
    runs = {f"vector: {name}": each for name, each in results.vectors.items()}
    runs |= {f"joint training {place + 1}": each for place, each in enumerate(results.joint)}
    runs["sibling"] = results.transfer.sibling
    lines = [
        [name, ", ".join(f"{what} {value:.3g}" for what, value in each.measured.items()), f"{each.seconds:.0f}"]
        for name, each in runs.items()
    ]
    yield markdown_table(["trained", "measured on held-out data", "seconds"], lines)
