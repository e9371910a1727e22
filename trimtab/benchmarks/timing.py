"""How two sides are timed: in one process, alternately, after a warm-up, with medians and ratios round by round.

It knows callables and seconds, not what they compute.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median

import torch

SHORTEST_STEP = 1e-6
"""Seconds; no step of a model is faster, so a smaller difference of two decodes is noise."""


def seconds(run: Callable[[], object]) -> float:
    """Return how long a call takes, in seconds, with the garbage collector off and the device waited for."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        _wait()
        started = time.perf_counter()
        run()
        _wait()
        return time.perf_counter() - started
    finally:
        if collecting:
            gc.enable()


def alternate(sides: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Time several sides in turns, so that what else the machine does falls on all of them.

    Args:
        sides: what to call, by name.
        repeats: rounds that count; one more round before them warms up.

    Returns:
        For each side its seconds, one number a round.

    Example:
        >>> times = alternate({"a": lambda: sum(range(10)), "b": lambda: None}, repeats=3)
        >>> len(times["a"]), len(times["b"])
        (3, 3)
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(repeats + 1):
        gc.collect()
        for name, run in sides.items():
            spent = seconds(run)
            if number:  # the first round warms up
                times[name].append(spent)
    return times


def step_times(sides: Mapping[str, Callable[[int], object]], tokens: int, repeats: int) -> dict[str, list[float]]:
    """Time one step of decoding: the difference of a long and a one-token decode, so that prefill does not count.

    Args:
        sides: what decodes a number of new tokens, by name.
        tokens: new tokens of the long decode, at least 2.
        repeats: rounds that count.

    Returns:
        For each side its seconds a step, one number a round.
    """
    times = alternate(decodes(sides, tokens), repeats)
    return {name: steps_of(times, name, tokens) for name in sides}


def decodes(sides: Mapping[str, Callable[[int], object]], tokens: int) -> dict[str, Callable[[], object]]:
    """Return the two calls of each side, for :func:`alternate`, whose times :func:`steps_of` reads."""
    return {f"{name} {length}": partial(run, length) for name, run in sides.items() for length in (tokens, 1)}


def steps_of(times: Mapping[str, Sequence[float]], side: str, tokens: int) -> list[float]:
    """Return the seconds of one step of a side of :func:`decodes`, one number a round."""
    return [
        max((long - short) / (tokens - 1), SHORTEST_STEP)
        for long, short in zip(times[f"{side} {tokens}"], times[f"{side} 1"], strict=True)
    ]


def ratio_of_medians(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of one side over the median of the other.

    Example:
        >>> ratio_of_medians([2.0, 9.0, 4.0], [2.0, 1.0, 3.0])
        2.0
    """
    return median(above) / median(below)


def spread(above: Sequence[float], below: Sequence[float]) -> tuple[float, float]:
    """Return the smallest and the largest ratio of a single round.

    Example:
        >>> spread([2.0, 9.0, 4.0], [2.0, 3.0, 2.0])
        (1.0, 3.0)
    """
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return min(ratios), max(ratios)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
