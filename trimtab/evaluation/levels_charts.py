"""Pictures of an experiment with preference vectors: curves over coefficients, and the combinations as a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimtab.evaluation.level_results import Curves, Way, combination_name
from trimtab.rewards.extras import extra
from trimtab.rewards.level import LEVELS

_COLOURS = {"expert": "#1f6f8b", "generic": "#c98a1b", "avoidance": "#a33b5c"}
_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "levels", "font.size": 9}


def draw_curves(weights: Curves, logits: Curves, path: Path) -> Path:
    """Draw the share of every level over each vector's coefficient: a row a vector, a column a domain.

    Args:
        weights: solid lines.
        logits: dotted lines.
        path: an .svg file; it is replaced if it exists.

    Returns:
        The path.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    names = list(weights.points)
    with extra("matplotlib").rc_context(_STYLE):
        size = (1.2 + 2.6 * len(names), 0.6 + 2.1 * len(names))
        figure = extra("matplotlib.figure").Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(names), len(names), squeeze=False, sharex=True, sharey=True)
        for row, vector in zip(grid, names, strict=True):
            for axes, domain in zip(row, names, strict=True):
                for curves, line in ((weights, "-"), (logits, ":")):
                    _shares(axes, curves, vector, domain, line)
                axes.axvline(0.0, color="black", alpha=0.2, linewidth=0.8)
                axes.set_ylim(-0.03, 1.03)
            row[0].set_ylabel(f"vector: {vector}")
        for axes, domain in zip(grid[0], names, strict=True):
            axes.set_title(f"questions: {domain}", fontsize=9)
        grid[-1][0].set_xlabel("coefficient")
        grid[0][0].legend(fontsize=7)
        figure.savefig(path, metadata={"Date": None})
    return path


def draw_combinations(ways: dict[str, Way], domains: Sequence[str], path: Path) -> Path:
    """Draw the accuracy of every way at every combination; a dot marks those that are reached.

    Args:
        ways: name to way; the first one has all combinations.
        domains: in the order of the letters.
        path: an .svg file; it is replaced if it exists.

    Returns:
        The path.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    columns = [combination_name(each.target, domains) for each in next(iter(ways.values())).attempts]
    cells = [[math.nan] * len(columns) for _ in ways]
    with extra("matplotlib").rc_context(_STYLE):
        size = (3.0 + 0.36 * len(columns), 1.2 + 0.36 * len(ways))
        figure = extra("matplotlib.figure").Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        for row, way in enumerate(ways.values()):
            for each in way.attempts:
                column = columns.index(combination_name(each.target, domains))
                cells[row][column] = each.accuracy
                if each.reached:
                    axes.plot(column + 0.5, row + 0.5, "o", color="white", markeredgecolor="black", markersize=5)
        mesh = axes.pcolormesh(cells, cmap="Blues", vmin=0.0, vmax=1.0, edgecolor="white", linewidth=0.8)
        axes.set_facecolor("#e6e6e6")  # what was not tried
        axes.invert_yaxis()
        axes.set_xticks([place + 0.5 for place in range(len(columns))], columns, rotation=90, family="monospace")
        axes.set_yticks([place + 0.5 for place in range(len(ways))], list(ways))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(f"levels of {', '.join(domains)}: Expert, Generic, Avoidance; a dot where reached")
        figure.colorbar(mesh, label="share of the wanted levels", pad=0.02).outline.set_visible(False)
        figure.savefig(path, metadata={"Date": None})
    return path


def _shares(axes: Any, curves: Curves, vector: str, domain: str, line: str) -> None:
    points = curves.points[vector]
    for level in LEVELS:
        shares = [each.found.shares[domain][level] for each in points]
        label = level if line == "-" else None
        amounts = [each.at[vector] for each in points]
        axes.plot(amounts, shares, line, marker="." if label else None, color=_COLOURS[level], label=label)
