"""`trimtab doctor`: versions, device, what is cached, what works; or where a policy runs."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from trimtab.cli.asked import Asked
from trimtab.cli.console import Talk
from trimtab.cli.options import Json, Knobs, Models, Vectors, knob_values, pairs

if TYPE_CHECKING:
    from trimtab.engines import Explanation

_CORE = ("trimtab", "torch", "transformers", "tokenizers", "peft", "safetensors", "numpy")
_EXTRAS = {
    "eval": ("scikit-learn", "matplotlib", "jinja2", "vaderSentiment"),
    "train": ("datasets", "pyarrow"),
}


_STYLES = {"exact": "green", "impossible": "red"}


def doctor(
    policy: Annotated[
        str | None, typer.Argument(help="A policy file (.yaml) or an expression: say which engines run it.")
    ] = None,
    model: Models = None,
    vector: Vectors = None,
    knob: Knobs = None,
    as_json: Json = False,
) -> None:
    """Say what is installed, what is cached, and whether the algebra works here; exit with 1 if it does not.

    Given a policy, say how each engine runs every part of it. No model is loaded.
    """
    talk = Talk(as_json)
    if policy is not None:
        models, vectors = pairs(model or [], "--model"), pairs(vector or [], "--vector")
        asked = Asked.read(policy, models, vectors, dtype="auto", device="auto")
        _explain(talk, asked, knob_values(knob or []))
        return
    found = _look()
    if as_json:
        talk.result(found)
    else:
        table = Table(show_header=False)
        for name, value in found.items():
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            table.add_row(name, shown)
        talk.out.print(table)
    if found["self-check"] != "passed":
        raise typer.Exit(1)


def _explain(talk: Talk, asked: Asked, knobs: dict[str, float]) -> None:
    """Say where a policy runs."""
    from trimtab.assets import built_in_models
    from trimtab.engines import ALL, explain

    sketch = asked.sketch(knobs)
    found = [explain(sketch, abilities, search=asked.search) for abilities in ALL]
    if talk.as_json:
        engines = [asdict(each) | {"verdict": each.verdict} for each in found]
        talk.result({"policy": str(sketch), "engines": engines})
        return
    for name, source in asked.sources.items():
        if "://" in source:
            talk.note(f"{name}: {source} was not asked; `trimtab generate` finds out what it can do")
        elif not os.path.isdir(source) and source not in {each.name for each in built_in_models()}:
            talk.note(f"{name}: {source} is no folder here, so it is taken for a whole model of the hub")
    talk.out.print(_engine_table(str(sketch), found))
    for each in found:
        for part in each.parts:
            if part.verdict != "exact":
                talk.out.print(Text(f"{each.engine}, {part.what}: {part.reason}; {part.way_out}"))


def _engine_table(policy: str, found: Sequence[Explanation]) -> Table:
    """Return a row a part and a column an engine."""
    table = Table(title=Text(policy))
    table.add_column("")
    for each in found:
        table.add_column(each.engine)
    verdicts = [{part.what: part.verdict for part in each.parts} | {"the whole": each.verdict} for each in found]
    whats = dict.fromkeys(part.what for each in found for part in each.parts)
    for what in (*whats, "the whole"):
        cells = [each.get(what, "") for each in verdicts]
        table.add_row(Text(what), *(Text(cell, style=_STYLES.get(cell, "yellow")) for cell in cells))
    return table


def _look() -> dict[str, Any]:
    """Collect the facts."""
    import torch

    from trimtab.assets import built_in_models, check_writable, home
    from trimtab.errors import ConfigError

    try:
        check_writable(home())
        writable = "yes"
    except ConfigError as error:
        writable = f"no: {error.given}"
    extras = {name: {package: _version(package) for package in packages} for name, packages in _EXTRAS.items()}
    missing = [name for name, packages in extras.items() if "missing" in packages.values()]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "python": platform.python_version(),
        "packages": {package: _version(package) for package in _CORE},
        "extras": {name: "missing" if name in missing else "installed" for name in extras},
        "to install": f'pip install "trimtab[{",".join(missing)}]"' if missing else "nothing",
        "device": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "home": str(home()),
        "home writable": writable,
        "cached": {model.name: "yes" if model.cached else "no" for model in built_in_models()},
        "self-check": _self_check(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"


def _self_check() -> str:
    """Run the laws on a tiny transformer with random weights."""
    from trimtab.testing import check_pair, check_policy, tiny_lm

    base, guide = tiny_lm(), tiny_lm(seed=1, name="guide")
    try:
        check_policy(base * guide**0.5, [[1, 2, 3], [4]])
        check_pair(base, guide, [[1, 2, 3], [4]])
    except AssertionError as error:
        return f"failed: {error}"
    return "passed"
