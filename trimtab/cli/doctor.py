"""`trimtab doctor`: versions, device, what is cached, what works."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import typer
from rich.table import Table

from trimtab.cli.console import Talk
from trimtab.cli.options import Json

_CORE = ("trimtab", "torch", "transformers", "tokenizers", "peft", "safetensors", "numpy")
_EXTRAS = {
    "eval": ("scikit-learn", "matplotlib", "jinja2", "vaderSentiment"),
    "train": ("datasets", "pyarrow"),
}


def doctor(as_json: Json = False) -> None:
    """Say what is installed, what is cached, and whether the algebra works here; exit with 1 if it does not."""
    talk = Talk(as_json)
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
