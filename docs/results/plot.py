"""Draw the curves of several runs into one SVG: python docs/results/plot.py OUT.svg LABEL=RUN_FOLDER ..."""

import sys
from pathlib import Path

import matplotlib

from trimtab.training.log import read_metrics

matplotlib.use("Agg")
from matplotlib import pyplot

PANELS = {"reward": "reward", "kl": "KL to the base, nats per token", "distinct_2": "distinct-2"}


def main():
    """Draw a panel a measure and a line a run."""
    target, *named = sys.argv[1:]
    figure, axes = pyplot.subplots(1, len(PANELS), figsize=(11, 3.2), layout="constrained")
    for label, run in (each.split("=") for each in named):
        lines = read_metrics(Path(run))
        for axis, (key, title) in zip(axes, PANELS.items(), strict=True):
            axis.plot([line["step"] for line in lines], [line[key] for line in lines], label=label)
            axis.set(title=title, xlabel="step")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    matplotlib.rcParams["svg.hashsalt"] = "trimtab"
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
