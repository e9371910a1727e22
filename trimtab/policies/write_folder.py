"""Writing what was made: a folder that is either whole or absent, with ``trimtab.json`` and a model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import trimtab
from trimtab.policies.guide_folder import GUIDE_FILE


def write_folder(folder: Path, write_weights: Callable[[Path], None], about: Mapping[str, Any], card: str) -> Path:
    """Write a folder beside its place and rename it into it.

    Args:
        folder: where to; what is there is replaced once the new one is whole.
        write_weights: called with the folder to write weights to.
        about: what ``trimtab.json`` says.
        card: the README.

    Returns:
        The folder.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        write_weights(partial)
        written = {"trimtab": trimtab.__version__, **about}
        (partial / GUIDE_FILE).write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(card, encoding="utf-8")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder
