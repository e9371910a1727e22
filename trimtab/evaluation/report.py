"""One self-contained HTML page about a comparison and the run that made the guide.

The page needs no script and loads nothing; everything on it that comes from data is escaped. What is shown is decided
here, how it looks in ``report.html.jinja``.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trimtab.decoding.answer import Answer
from trimtab.evaluation.charts import curve
from trimtab.evaluation.compare import Comparison, Result
from trimtab.evaluation.metrics import mean_log_ratio
from trimtab.evaluation.page import write_page
from trimtab.evaluation.spelling import spell
from trimtab.evaluation.table import Table
from trimtab.policies.vocabulary import Vocabulary
from trimtab.rewards.extras import extra

FULL_COLOUR = 3.0
"""Shift, in nats, at which a token has the strongest colour: 20 times as likely, or as unlikely, as under the base."""

_MINUS, _TIMES = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}"
_BETTER = {"higher": "; higher is better", "lower": "; lower is better", "neither": ""}
_EXACT = ("KL to the base", "nats per token, exact; 0 is the base itself")
_ESTIMATED = (
    "KL to the base, estimated",
    "nats per token: the mean of log policy - log base over the sampled tokens, which is right on average; not known "
    "where a search, a temperature, a cut or a shortest length chose",
)
_CURVES = (
    ("reward", "Training reward", "mean over the answers of a step"),
    ("kl", "KL to the base", "nats per token"),
    ("entropy", "Entropy", "nats per token"),
    ("distinct_2", "Distinct-2 in training", "share of different token pairs in a step"),
)


@dataclass(frozen=True)
class Measure:
    """One line of the headline table.

    Args:
        label: what is measured.
        note: how to read it.
        values: one a policy, ready to be shown.
        change: of the policy on top against the base, ready to be shown; empty when there is none.
        after: the value of that policy.
    """

    label: str
    note: str
    values: tuple[str, ...]
    change: str
    after: str = ""


@dataclass(frozen=True)
class Mark:
    """A piece of an answer, coloured by how far the policy moved it.

    Args:
        text: of the piece.
        shift: log-probability under the policy minus that under its reference, in nats.
        tip: both numbers in words.
    """

    text: str
    shift: float
    tip: str

    @property
    def side(self) -> str:
        """Which way it moved: "up", "down", or "" when it did not."""
        return "" if abs(self.shift) < 0.05 else "up" if self.shift > 0 else "down"

    @property
    def strength(self) -> str:
        """How strongly it is coloured, from 0 to 1."""
        return f"{min(1.0, abs(self.shift) / FULL_COLOUR):.2f}"


@dataclass(frozen=True)
class Figure:
    """A picture of a page.

    Args:
        title: above it.
        note: how to read it.
        svg: the picture.
    """

    title: str
    note: str
    svg: str


@dataclass(frozen=True)
class Findings:
    """What a page may show beside a comparison.

    Args:
        table: numbers with intervals.
        warnings: what a reader has to know.
        figures: pictures.
        commands: pairs of a label and what to type.
        main: name of the policy whose change from the base is shown on top; the second one by default.
    """

    table: Table | None = None
    warnings: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    commands: Sequence[tuple[str, str]] = ()
    main: str | None = None


def write_report(
    target: Path,
    comparison: Comparison,
    *,
    run: Path | None = None,
    title: str = "Base and tailored",
    samples: int = 8,
    findings: Findings = Findings(),
) -> Path:
    """Write the page.

    Args:
        target: the HTML file; it is replaced if it exists.
        comparison: what was measured; its first result is the base.
        run: the run folder of the guide, for curves, settings and commands.
        title: of the page.
        samples: prompts to show answers of, from the first on.
        findings: a table with intervals, warnings, pictures and commands.

    Returns:
        ``target``.

    Raises:
        ConfigError: jinja2 or matplotlib is not installed.
        RunError: the file cannot be written.
    """
    record = _read_run(run)
    places = [place for place, result in enumerate(comparison.results) if result.name == findings.main]
    main = places[0] if places else 1
    markup = extra("markupsafe").Markup
    content = {
        "title": title,
        "comparison": comparison,
        "measures": measures(comparison, main),
        "main": comparison.results[main].name if len(comparison.results) > 1 else "",
        "table": _table(findings.table),
        "warnings": list(findings.warnings),
        "figures": [(each.title, each.note, markup(each.svg)) for each in findings.figures],
        "curves": [(label, note, markup(svg)) for label, note, svg in _curves(record.steps)],
        "samples": _samples(comparison, samples),
        "full_colour": f"{math.exp(FULL_COLOUR):.0f}",
        "facts": _facts(comparison, record),
        "config": record.config_text,
        "commands": [*_commands(run, comparison), *findings.commands],
    }
    return write_page(target, "report.html.jinja", content)


def _table(table: Table | None) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return the lines of a table with a line a measure: its name, how to read it, a number and interval a policy."""
    if table is None:
        return []
    columns = [table.cells(line) for line in table.lines]
    return [
        (measure.name, f"{measure.note}{_BETTER[measure.better]}", [_parts(_minus(cell)) for cell in cells])
        for measure, *cells in zip(table.columns, *columns, strict=True)
    ]


def _parts(cell: str) -> tuple[str, str]:
    """Return a number, and the interval behind it."""
    number, _, interval = cell.partition(" ")
    return number, interval


def measures(comparison: Comparison, main: int = 1) -> list[Measure]:
    """Return the headline table, one line a measure with the values of all policies in their order.

    Args:
        comparison: what was measured.
        main: place of the policy whose change from the base is told.
    """
    results = comparison.results

    def line(label: str, note: str, values: Sequence[float | None], digits: int, *, share: bool = False) -> Measure:
        change = ""
        before, after = (values[0], values[main]) if len(values) > 1 else (None, None)
        if before is not None and after is not None and math.isfinite(after - before):
            change = f"{after / before:.2f} x" if share and before else f"{after - before:+.{digits}f}"
        shown = tuple(_number(v, digits) for v in values)
        return Measure(label, note, shown, _minus(change).replace("x", _TIMES), shown[main] if change else "")

    searched = any(result.searched and not result.estimated for result in results)
    proposal = "nats per token along the answers; it does not see what a search chose by"
    judged = [
        line(f"Judge {name}", "mean score by a scorer that training never saw", [r.judges[name] for r in results], 3)
        for name in comparison.judges
    ]
    return [
        *judged,
        line(f"Reward {comparison.reward}", "what the guide was trained on", [r.reward for r in results], 3),
        line(*(_ESTIMATED if comparison.estimated else _EXACT), [r.kl for r in results], 3),
        *([line("KL of the proposal", proposal, [r.proposal_kl for r in results], 3)] if searched else []),
        line("Perplexity under the base", "lower is more like the base", [r.perplexity for r in results], 1),
        line("Distinct-2", "share of different word pairs", [r.distinct_2 for r in results], 3, share=True),
        line("Repetition", "share of repeated word triples in an answer", [r.repetition for r in results], 3),
        line("Length", "tokens an answer", [r.length for r in results], 1),
        line("Speed", "tokens a second, all rows", [r.tokens_per_second for r in results], 0, share=True),
        line("Proposed", "tokens that were sampled, rejected ones too", [r.proposed for r in results], 0),
        line("Time", "seconds for all answers", [r.seconds for r in results], 1),
    ]


def marks(answer: Answer, vocabulary: Vocabulary) -> list[Mark]:
    """Return the pieces of an answer with how far the policy moved each from its reference."""
    found: list[Mark] = []
    for piece in spell(answer, vocabulary):
        own = sum(answer.log_probs[piece.start : piece.stop])
        reference = sum(answer.reference_log_probs[piece.start : piece.stop])
        text = (piece.text if found else piece.text.lstrip(" ")).replace("\n", "↵\n")
        if not text and piece.stop == len(answer.token_ids) and answer.finish_reason == "end":
            text = " ∎"
        if text:
            found.append(Mark(text, own - reference, _tip(own, reference)))
    return found


@dataclass(frozen=True)
class _Record:
    """What a run folder says."""

    config_text: str = ""
    config: Mapping[str, Any] | None = None
    steps: tuple[Mapping[str, float], ...] = ()


def _read_run(run: Path | None) -> _Record:
    """Read settings and metrics; a missing file leaves its part of the page out."""
    if run is None:
        return _Record()
    config, metrics = run / "config.yaml", run / "metrics.jsonl"
    text = config.read_text(encoding="utf-8") if config.is_file() else ""
    # The last line of a run that was killed may be cut short; what follows the last line end is left out.
    lines = metrics.read_text(encoding="utf-8").split("\n")[:-1] if metrics.is_file() else []
    return _Record(text, yaml.safe_load(text) if text else None, tuple(json.loads(line) for line in lines))


def _curves(steps: Sequence[Mapping[str, float]]) -> list[tuple[str, str, str]]:
    """Draw what the run measured."""
    if not steps:
        return []
    numbers = [step["step"] for step in steps]
    return [
        (label, note, curve(numbers, [step[key] for step in steps], name=key))
        for key, label, note in _CURVES
        if key in steps[0]
    ]


def _samples(comparison: Comparison, count: int) -> list[dict[str, Any]]:
    """Return the first answer of every policy to the first prompts, unchosen."""
    return [
        {
            "prompt": prompt,
            "answers": [
                (result.name, marks(result.answers[place], comparison.vocabulary), _caption(result, place))
                for result in comparison.results
            ],
        }
        for place, prompt in ((i * comparison.n, prompt) for i, prompt in enumerate(comparison.prompts[:count]))
    ]


def _caption(result: Result, place: int) -> str:
    answer, kl = result.answers[place], "KL of the proposal" if result.searched or result.held else "KL"
    # One answer's log-ratio is noise around its KL, and may be below 0.
    name, value = ("log-ratio", mean_log_ratio([answer])) if result.estimated else (kl, answer.mean_kl)
    return f"reward {_number(result.rewards[place], 2)} · {name} {_number(value, 2)}"


def _facts(comparison: Comparison, record: _Record) -> list[tuple[str, str]]:
    """Say how the guide was made and measured."""
    made = []
    if record.config is not None:
        config = record.config
        seconds = sum(step.get("seconds", 0.0) for step in record.steps)
        algorithm = config.get("algorithm") or {}
        made = [
            ("Base", str(config.get("base"))),
            ("Algorithm", f"{algorithm.get('name')}, {len(record.steps)} steps, {duration(seconds)}"),
            ("Trained form", str(config.get("form"))),
            ("Seed", str(config.get("seed"))),
        ]
    settings, sampling = comparison.settings, comparison.settings.sampling
    others = [f"{result.name} = {result.policy}" for result in comparison.results[1:]]
    return [
        *made,
        ("Reward", comparison.reward),
        ("Judges", ", ".join(comparison.judges) or "none"),
        *(("Policy", other) for other in others),
        ("Measured on", f"{len(comparison.prompts)} prompts, {comparison.n} answers each, seed {settings.seed}"),
        (
            "Sampled with",
            f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, "
            f"{settings.min_new_tokens} to {settings.max_new_tokens} new tokens",
        ),
    ]


def _commands(run: Path | None, comparison: Comparison) -> list[tuple[str, str]]:
    """Say how to use the guide."""
    if run is None or not (run / "policy.yaml").is_file():
        return []
    policy, prompt = run / "policy.yaml", shlex.quote(comparison.prompts[0])
    return [
        ("Generate", f"trimtab generate {shlex.quote(str(policy))} {prompt} -n 4"),
        ("Steer harder, or not at all", f"trimtab generate {shlex.quote(str(policy))} {prompt} --knob strength=2"),
        (
            "From Python",
            "import trimtab as tt\n\n"
            f"policy = tt.read_policy_file({str(policy)!r}).build(tt.LM.load)\n"
            f"answers = policy.generate({comparison.prompts[0]!r}, n=4, knobs={{'strength': 1.5}})\n"
            "answers[0].text, answers[0].log_probs, answers[0].reference_log_probs, answers[0].kl",
        ),
    ]


def duration(seconds: float) -> str:
    """Say how long something took.

    Example:
        >>> duration(42.3), duration(605)
        ('42 s', '10 min 5 s')
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _tip(own: float, reference: float) -> str:
    """Say both log-probabilities and the probability ratio."""
    ratio = math.exp(min(abs(own - reference), 700.0))
    times = f"{ratio:.1f}" if ratio < 100 else f"{ratio:,.0f}" if ratio < 1e6 else "over a million"
    way = "more" if own >= reference else "less"
    moved = "unmoved" if abs(own - reference) < 0.05 else f"{times} times {way} likely than under the base"
    return (
        f"policy {_percent(own)}  ({_number(own, 2)})\nbase   {_percent(reference)}  ({_number(reference, 2)})\n{moved}"
    )


def _percent(log_prob: float) -> str:
    share = math.exp(log_prob) * 100
    return f"{share:.0f} %" if share >= 10 else f"{share:.1f} %" if share >= 0.1 else "under 0.1 %"


def _number(value: float | None, digits: int) -> str:
    if value is None or math.isnan(value):
        return "\N{EN DASH}"
    return _minus(f"{value:.{digits}f}") if math.isfinite(value) else "∞" if value > 0 else f"{_MINUS}∞"


def _minus(text: str) -> str:
    """Use the minus sign, and no sign for a zero."""
    return text.replace("-", _MINUS) if text.strip("+-0.") else text.strip("+-")
