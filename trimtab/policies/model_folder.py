"""What a folder must hold to be a model: a configuration that can be read, and weights that need not be unpickled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trimtab.errors import ModelError


def read_config(folder: Path) -> dict[str, Any]:
    """Return what ``config.json`` says.

    Raises:
        ModelError: it is not JSON.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(
            given=f"{folder}/config.json, which is not JSON: {error}",
            expected="a whole model folder",
            hint="copy it again",
        ) from error
    return config


def without_weights(folder: Path, expected: str) -> ModelError:
    """Say that a folder has no weights that can be used: none, or only pickled ones."""
    pickled = [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]
    return ModelError(
        given=f"{folder}, " + (f"which has only pickled weights ({pickled[0].name})" if pickled else "without weights"),
        expected=expected,
        hint="convert them with transformers' save_pretrained; trimtab never unpickles"
        if pickled
        else "check the path, or download the model again",
    )
