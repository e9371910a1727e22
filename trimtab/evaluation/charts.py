"""Training curves as SVG that takes its colours from the page around it, so that it is right in light and dark."""

from __future__ import annotations

import io
from collections.abc import Sequence

from trimtab.rewards.extras import extra

# Colours that no one would choose stand for those of the page until the picture is drawn.
_INK, _LINE = "#010203", "#040506"
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def curve(steps: Sequence[float], values: Sequence[float], *, name: str) -> str:
    """Draw one measurement over training steps: a faint line through every step and a bold running mean.

    Args:
        steps: number of each step, at least one.
        values: what was measured at each.
        name: of the measurement; keeps the ids of several pictures on one page apart.

    Returns:
        An ``<svg>`` element that uses ``currentColor`` and ``var(--accent)``.

    Raises:
        ConfigError: matplotlib is not installed.

    Example:
        >>> curve([1, 2], [0.1, 0.4], name="reward").startswith("<svg")
        True
    """
    with extra("matplotlib").rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = extra("matplotlib.figure").Figure(figsize=(4.2, 2.1), layout="constrained")
        axes = figure.add_subplot()
        mean = running_mean(values, max(1, len(values) // 12))
        axes.plot(steps, values, color=_LINE, alpha=0.35, linewidth=0.9)
        axes.plot(steps, mean, color=_LINE, linewidth=2.2, solid_capstyle="round")
        axes.plot(steps[-1:], mean[-1:], "o", color=_LINE, markersize=5, clip_on=False)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_alpha(0.3)
        axes.grid(axis="y", color=_INK, alpha=0.12, linewidth=0.8)
        axes.tick_params(length=0, labelcolor=_INK)
        axes.locator_params(axis="y", nbins=4)
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        axes.set_xlim(min(steps), max(steps) if len(steps) > 1 else min(steps) + 1)
        axes.set_xlabel("step")
        picture = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(picture, format="svg", transparent=True, metadata=nothing)
    svg = picture.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor").replace(_LINE, "var(--accent)")
    return svg.replace("<svg ", '<svg aria-hidden="true" ', 1)


def running_mean(values: Sequence[float], reach: int) -> list[float]:
    """Return the mean of each value and its neighbours up to ``reach`` steps away, fewer at the ends.

    Example:
        >>> running_mean([0.0, 3.0, 0.0, 3.0], 1)
        [1.5, 1.0, 2.0, 1.5]
    """
    windows = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]
