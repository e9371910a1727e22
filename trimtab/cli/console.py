"""What every verb says and how: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from trimtab.evaluation.compare import Comparison
    from trimtab.evaluation.table import Table as Numbers
    from trimtab.tasks.contest import Standing

_SHOWN = ("reward", "kl", "entropy", "loss", "accuracy")
"""Measurements of a training step that fit on its line."""


@dataclass
class Talk:
    """How a verb talks.

    Args:
        as_json: results are one JSON object on standard output.
        quiet: no progress.
        out: for results.
        err: for progress and messages.
    """

    as_json: bool = False
    quiet: bool = False
    out: Console = field(default_factory=lambda: Console(soft_wrap=True))
    err: Console = field(default_factory=lambda: Console(stderr=True))

    def note(self, message: str) -> None:
        """Say what is going on."""
        if not self.quiet and not self.as_json:
            self.err.print(Text(message, style="dim"))

    def result(self, value: object) -> None:
        """Print the one JSON object of a verb."""
        self.out.print(Text(json.dumps(value, ensure_ascii=False, default=str)))

    def comparison(self, comparison: Comparison) -> None:
        """Print the table of a comparison: a column a policy, a row a measure."""
        table = Table(title=f"{len(comparison.prompts)} prompts, {comparison.n} answers each")
        table.add_column("")
        for result in comparison.results:
            table.add_column(result.name, justify="right")
        results = comparison.results
        searched = any(r.searched and not r.estimated for r in results)
        kl = f"KL to the base{', estimated' if comparison.estimated else ''}, nats per token"
        rows: list[tuple[str, Sequence[float | None]]] = [(f"reward: {comparison.reward}", [r.reward for r in results])]
        rows += [(f"judge: {judge}", [r.judges[judge] for r in results]) for judge in comparison.judges]
        rows += [
            (kl, [r.kl for r in results]),
            *([("KL of the proposal, nats per token", [r.proposal_kl for r in results])] if searched else []),
            ("perplexity under the base", [r.perplexity for r in results]),
            ("distinct-2", [r.distinct_2 for r in results]),
            ("repetition", [r.repetition for r in results]),
            ("tokens per answer", [r.length for r in results]),
            ("tokens per second", [r.tokens_per_second for r in results]),
            ("tokens proposed", [r.proposed for r in results]),
            ("seconds", [r.seconds for r in results]),
        ]
        for label, values in rows:
            table.add_row(label, *(_number(value) for value in values))
        self.out.print(table)
        if comparison.estimated:
            self.out.print(
                "KL is estimated: the mean of log policy - log base over sampled tokens. It is not known where a "
                "search, a temperature, a cut or a shortest length chose."
            )
        elif any(r.kl is None for r in results):
            self.out.print(
                "KL is not measured where a search or keywords chose; that of a proposal does not see what chose."
            )

    def standing(self, found: Standing) -> None:
        """Print how policies did at a task, and what a reader has to know."""
        self.comparison(found.comparison)
        self.table(found.table)
        for line in found.warnings:
            self.out.print(Text(line, style="yellow"))

    def table(self, found: Numbers) -> None:
        """Print the table of a task: a column a policy, a row a measure, with intervals."""
        table = Table(title="with 95 % intervals; a star: the difference to the base excludes 0")
        table.add_column("")
        for line in found.lines:
            table.add_column(line.name, justify="right")
        columns = [found.cells(line) for line in found.lines]
        for measure, cells in zip(found.columns, zip(*columns, strict=True), strict=True):
            table.add_row(measure.name, *cells)
        self.out.print(table)

    def samples(self, comparison: Comparison, count: int) -> None:
        """Print answers of all policies side by side."""
        table = Table(title="Samples", show_lines=True)
        table.add_column("prompt", ratio=1)
        for result in comparison.results:
            table.add_column(result.name, ratio=2)
        for i, prompt in enumerate(comparison.prompts[:count]):
            table.add_row(Text(prompt), *(Text(r.answers[i * comparison.n].text.strip()) for r in comparison.results))
        self.out.print(table)


def _number(value: float | None) -> str:
    """Show four digits, a count whole, or that there is no number."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


class StepBar:
    """Shows training steps: a bar on a terminal, a plain line a step elsewhere; a context manager.

    Args:
        talk: how the verb talks.
    """

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self._bar: Progress | None = None
        self._task: Any = None

    def __enter__(self) -> StepBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, metrics: Mapping[str, float]) -> None:
        """Show one step."""
        if self._talk.quiet or self._talk.as_json:
            return
        line = "  ".join(f"{name} {metrics[name]:.3f}" for name in _SHOWN if name in metrics)
        if not self._talk.err.is_terminal:
            self._talk.note(f"step {metrics['step']}/{metrics['steps']}  {line}  {metrics['seconds']:.1f} s")
            return
        if self._bar is None:
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.description}"), console=self._talk.err)
            self._task = self._bar.add_task("", total=metrics["steps"])
            self._bar.start()
        self._bar.update(self._task, completed=metrics["step"], description=line)
