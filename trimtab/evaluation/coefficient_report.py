"""What a search for coefficients found: a table of targets, and a picture of how well points fit one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trimtab.evaluation.markdown import markdown_table
from trimtab.policies.knob import Knob
from trimtab.rewards.extras import extra
from trimtab.vectors.search import Target, Trial, Trials


def target_table(trials: Trials, targets: Sequence[Target]) -> str:
    """Return a Markdown table: a line a target with its best point, the shares there, and whether it is reached."""
    domains = list(targets[0])
    knobs = sorted(next(iter(trials)).point)
    lines = []
    for target in targets:
        best = trials.best(target)
        shares = [f"{best.found.shares[domain][target[domain]]:.2f}" for domain in domains]
        values = [f"{best.point[knob]:.3g}" for knob in knobs]
        reached = "yes" if best.found.reaches(target) else "no"
        lines.append([*(target[domain] for domain in domains), *values, *shares, reached])
    return markdown_table([*domains, *knobs, *(f"{domain}: share" for domain in domains), "reached"], lines)


def draw_surface(trials: Trials, target: Target, knobs: Sequence[Knob], path: Path) -> Path:
    """Draw how well points fit a target: over one knob a curve, over more a panel for each two of them.

    A panel shows every measured point at its place; where several lie on one place, the best is on top.

    Args:
        trials: what was measured.
        target: what is wanted.
        knobs: the coordinates.
        path: an .svg, .png or .pdf file; it is replaced if it exists.

    Returns:
        The path.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    ordered = sorted(trials, key=lambda trial: trial.found.score(target))
    names = [knob.name for knob in knobs]
    pairs = [(a, b) for place, a in enumerate(names) for b in names[place + 1 :]] or [(names[0], "")]
    title = ", ".join(f"{domain} {level}" for domain, level in target.items())
    with extra("matplotlib").rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9}):
        size = (1.0 + 3.4 * len(pairs), 3.4)
        figure = extra("matplotlib.figure").Figure(figsize=size, layout="constrained")
        shown = None
        for axes, (a, b) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
            across = [trial.point[a] for trial in ordered]
            scores = [trial.found.score(target) for trial in ordered]
            if b:
                up = [trial.point[b] for trial in ordered]
                shown = axes.scatter(across, up, c=scores, cmap="viridis", vmin=0.0, vmax=1.0, s=70, edgecolors="none")
                axes.set_ylabel(b)
            else:
                _curves(axes, ordered, a, target)
            best = ordered[-1].point
            if b:
                axes.plot(best[a], best[b], marker="o", markersize=13, fillstyle="none", color="crimson")
            axes.set_xlabel(a)
        if shown is not None:
            figure.colorbar(shown, ax=figure.axes, label="mean share of the wanted levels")
        figure.suptitle(title)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return path


def _curves(axes: object, trials: Sequence[Trial], knob: str, target: Target) -> None:
    """Draw the share of every level over one knob."""
    in_order = sorted(trials, key=lambda trial: trial.point[knob])
    for domain in target:
        for level in in_order[0].found.shares[domain]:
            points = [trial.point[knob] for trial in in_order]
            shares = [trial.found.shares[domain][level] for trial in in_order]
            axes.plot(points, shares, marker="o", markersize=3, label=f"{domain}: {level}")  # type: ignore[attr-defined]
    axes.set_ylabel("share of questions")  # type: ignore[attr-defined]
    axes.legend(fontsize=7)  # type: ignore[attr-defined]
