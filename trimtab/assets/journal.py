"""Measurements kept as they are made: a line each, in a file that is only ever added to, so that a stop loses none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError


class Journal:
    """A JSONL file whose first line says what is measured, and whose others are measurements.

    Args:
        path: of the file; made where it is missing.
        about: what the measurements depend on, as plain values; a file about something else is refused.
        what: it holds, for messages, such as ``"search"``.

    Raises:
        ConfigError: the file is damaged, or is about something else.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "points.jsonl"
        >>> Journal(path, {"seed": 0}, "sweep").add([{"x": 1}])
        >>> Journal(path, {"seed": 0}, "sweep").rows
        [{'x': 1}]
    """

    def __init__(self, path: Path, about: Mapping[str, Any], what: str) -> None:
        self.path, self._what = path, what
        self.rows: list[dict[str, Any]] = []
        asked = json.loads(json.dumps(dict(about)))
        if path.is_file():
            self._read(asked)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"about": asked}) + "\n", encoding="utf-8")

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Keep more measurements, plain values each."""
        with self.path.open("a", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row) + "\n")
                self.rows.append(row)

    def damaged(self, error: Exception) -> ConfigError:
        """Say that a line is no measurement."""
        return ConfigError(
            given=f"{self.path}, which is damaged: {error}",
            expected=f"the measurements of a {self._what}",
            hint="remove it",
        )

    def _read(self, about: dict[str, Any]) -> None:
        # The last line of a run that was killed may be cut short; it is measured again.
        text = self.path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        try:
            first, *self.rows = map(json.loads, filter(None, whole.split("\n")))
            there = first["about"]
        except (ValueError, TypeError, KeyError) as error:
            raise self.damaged(error) from error
        if there != about:
            other = sorted(name for name in {*there, *about} if there.get(name) != about.get(name))
            raise ConfigError(
                given=f"{self.path}, which holds a {self._what} with another {', '.join(other)}",
                expected=f"a {self._what} of the same things in the same way, or a new folder",
                hint="choose another folder",
            )
        if whole != text:
            self.path.write_text(whole, encoding="utf-8")
