"""A picture of what a vector changes: layers across, kinds of modules down, the darker the more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from trimtab.errors import ConfigError
from trimtab.rewards.extras import extra
from trimtab.vectors.inspect import Norm

SUFFIXES = (".svg", ".png", ".pdf")


def draw_norms(norms: Sequence[Norm], path: Path, *, title: str) -> Path:
    """Draw the root mean square of every tensor's difference; what belongs to no layer is the last column.

    Args:
        norms: of a vector's tensors.
        path: an .svg, .png or .pdf file; it is replaced if it exists.
        title: of the picture.

    Returns:
        The path.

    Raises:
        ConfigError: the file has another suffix or cannot be written, or matplotlib is not installed.

    Example:
        >>> draw_norms([Norm("lm_head.weight", None, "lm_head", 1.0, 4, None)], Path("norms.gif"), title="medical")
        Traceback (most recent call last):
        ...
        trimtab.errors.ConfigError: given: the picture norms.gif
        expected: a file that ends in .svg, .png, .pdf
        try: norms.svg
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(
            given=f"the picture {path}",
            expected=f"a file that ends in {', '.join(SUFFIXES)}",
            hint=str(path.with_suffix(".svg")),
        )
    layers = sorted({each.layer for each in norms if each.layer is not None})
    outside = any(each.layer is None for each in norms)
    kinds = list(dict.fromkeys(each.kind for each in sorted(norms, key=_order)))
    cells = [[math.nan] * (len(layers) + outside) for _ in kinds]
    for each in norms:
        column = len(layers) if each.layer is None else layers.index(each.layer)
        cells[kinds.index(each.kind)][column] = each.rms
    with extra("matplotlib").rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9}):
        size = (2.6 + 0.24 * max(8, len(cells[0])), 1.1 + 0.26 * max(4, len(kinds)))
        figure = extra("matplotlib.figure").Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        mesh = axes.pcolormesh(cells, cmap="Blues", vmin=0.0, edgecolor="white", linewidth=0.6)
        axes.invert_yaxis()
        every = max(1, len(layers) // 15)
        ticks = [(i + 0.5, str(layer)) for i, layer in enumerate(layers) if i % every == 0]
        ticks += [(len(layers) + 0.5, "none")] if outside else []
        axes.set_xticks([place for place, _ in ticks], [label for _, label in ticks])
        axes.set_yticks([i + 0.5 for i in range(len(kinds))], kinds)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set(xlabel="layer", title=title)
        figure.colorbar(mesh, label="root mean square change", pad=0.02).outline.set_visible(False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        except OSError as error:
            raise ConfigError(
                given=f"{path}, which cannot be written ({error.strerror})",
                expected="a file that can be written",
                hint="choose another place",
            ) from error
    return path


def _order(norm: Norm) -> tuple[bool, str]:
    """Put the modules of layers first."""
    return norm.layer is None, norm.name.partition(".layers.")[2].partition(".")[2] or norm.name
