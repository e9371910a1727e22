"""Stages of an experiment that are kept: what was found, in a JSON file beside what it was asked with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from trimtab.errors import ConfigError
from trimtab.training.settings import Section

Found = TypeVar("Found", bound=Section)


def kept(
    path: Path, kind: type[Found], about: Mapping[str, Any], make: Callable[[], Found], *, costly: bool = False
) -> Found:
    """Return what a stage found before with the same settings, or let it find it and keep it.

    Args:
        path: the file of the stage.
        kind: of what it finds.
        about: everything that the result depends on, as plain values.
        make: runs the stage.
        costly: whether what was found with other settings is refused; else it is replaced.

    Raises:
        ConfigError: the file is damaged, or holds a costly stage with other settings.

    Example:
        >>> import tempfile
        >>> class Sum(Section):
        ...     value: int
        >>> path = Path(tempfile.mkdtemp()) / "sum.json"
        >>> kept(path, Sum, {"terms": [1, 2]}, lambda: Sum(value=3)).value
        3
        >>> kept(path, Sum, {"terms": [1, 2]}, lambda: 1 / 0).value  # not asked again
        3
    """
    asked = json.loads(json.dumps(dict(about)))
    if path.is_file():
        there, found = _read(path, kind)
        if there == asked:
            return found
        if costly:
            other = sorted(name for name in {*there, *asked} if there.get(name) != asked.get(name))
            raise ConfigError(
                given=f"{path}, which was made with another {', '.join(other)}",
                expected="the settings of this experiment",
                hint="delete it to have it made again, or choose another output",
            )
    found = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    content = {"about": asked, "found": found.model_dump(mode="json")}
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.rename(path)
    return found


def digest(path: Path) -> str:
    """Name a file by its content."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _read(path: Path, kind: type[Found]) -> tuple[dict[str, Any], Found]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return dict(content["about"]), kind.model_validate(content["found"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            given=f"{path}, which is damaged: {str(error).splitlines()[0]}",
            expected="what a stage of the experiment kept",
            hint="delete it to have it made again",
        ) from error
