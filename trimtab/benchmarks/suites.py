"""The suites by name, and the run of some of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from trimtab.benchmarks import decode, fused, knobs, prefill, search, speculative, vectors
from trimtab.benchmarks.measure import Measure
from trimtab.benchmarks.setup import Setup
from trimtab.errors import UsageError


@dataclass(frozen=True)
class Suite:
    """A group of measures.

    Args:
        name: what the command line calls it.
        about: what it compares, in a line.
        run: measures it.
    """

    name: str
    about: str
    run: Callable[[Setup], list[Measure]]


SUITES = (
    Suite("decode", "a plain LM, over transformers' generate", decode.suite),
    Suite("fused", "products over their base, proxy tuning over the loops people write", fused.suite),
    Suite("speculative", "speculative over plain decoding, and what was predicted", speculative.suite),
    Suite("search", "chunk search over repeated prompts and re-encoded texts", search.suite),
    Suite("knobs", "rows with their own knob values over rows with one", knobs.suite),
    Suite("vectors", "rows with their own coefficients of vectors over the base", vectors.suite),
    Suite("prefill", "many answers to a long prompt over one", prefill.suite),
)


def pick(names: Sequence[str]) -> list[Suite]:
    """Return the suites of these names, or all of them for no names.

    Raises:
        UsageError: there is no suite of that name.

    Example:
        >>> [suite.name for suite in pick(["knobs", "decode"])]
        ['knobs', 'decode']
    """
    known = {suite.name: suite for suite in SUITES}
    for name in names:
        if name not in known:
            raise UsageError(
                given=f"the suite {name!r}", expected=f"one of {', '.join(known)}", hint="run `trimtab bench --list`"
            )
    return [known[name] for name in dict.fromkeys(names)] or list(SUITES)


def run(suites: Sequence[Suite], bench: Setup) -> Iterator[tuple[Suite, list[Measure]]]:
    """Measure one suite after the other, and hand each over as soon as it is done."""
    for suite in suites:
        yield suite, suite.run(bench)
