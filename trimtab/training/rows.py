"""Rows of data from a JSONL, Parquet or text file, or a hub data set, each with the number that messages name it by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trimtab.errors import ConfigError

_SUFFIXES = {".jsonl", ".parquet", ".txt"}


def read_rows(source: str, split: str, *, text_column: str) -> list[tuple[int, dict[str, Any]]]:
    """Read all rows.

    Args:
        source: a .jsonl, .parquet or .txt file, or the id of a hub data set.
        split: of a hub data set.
        text_column: the column that lines of a .txt file go to.

    Returns:
        Pairs of a line or row number, from 1, and a row.

    Raises:
        ConfigError: a file is missing or broken (with its line), a data set cannot be reached, or there are no rows.
    """
    path = Path(source)
    found = _file(path, text_column) if path.suffix in _SUFFIXES or path.exists() else _hub(source, split)
    rows = list(found)
    if not rows:
        raise ConfigError(given=f"{source}, which holds no rows", expected="at least one", hint="check the file")
    return rows


def text_of(row: dict[str, Any], number: int, column: str, source: str, setting: str | None = None) -> str:
    """Return the text in a column of a row.

    Args:
        row: the row.
        number: its number.
        column: which.
        source: of the row, for messages.
        setting: that names the column, for messages, where there is one.

    Raises:
        ConfigError: there is no such column, or it holds no text; the message has the row's number.
    """
    if column not in row:
        raise ConfigError(
            given=f"{source}, row {number}, with the columns {sorted(row)}",
            expected=f"a column {column!r}",
            hint=f"set {setting} to the column that is meant" if setting else "rename the column that is meant",
        )
    if not isinstance(row[column], str):
        raise ConfigError(
            given=f"{source}, row {number}: the {column} {row[column]!r}",
            expected="a text",
            hint="repair or delete that row",
        )
    text: str = row[column]
    return text


def _file(path: Path, text_column: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line or row number, row)."""
    if path.suffix not in _SUFFIXES:
        raise ConfigError(
            given=f"the data file {path}", expected=f"a name that ends in {sorted(_SUFFIXES)}", hint="rename it"
        )
    if not path.is_file():
        raise ConfigError(given=f"the data file {path}, which does not exist", expected="a file", hint="check the path")
    if path.suffix == ".parquet":
        yield from enumerate(_parquet(path), 1)
        return
    for number, line in _lines(path):
        if path.suffix == ".txt":
            yield number, {text_column: line}
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(
                given=f"{path}, line {number}: {error.msg} at column {error.colno}",
                expected="one JSON object a line",
                hint="repair or delete that line",
            ) from error
        if not isinstance(row, dict):
            raise ConfigError(
                given=f"{path}, line {number}: a {type(row).__name__}",
                expected=f'one JSON object a line, such as {{"{text_column}": "The film was"}}',
                hint="wrap the text in an object",
            )
        yield number, row


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, text) of the lines that are not blank."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            given=f"the data file {path} ({error.strerror})",
            expected="a file that can be read",
            hint="check its rights",
        ) from error
    # Bytes end their lines at line feeds alone; texts also at U+2028 and others, which JSON strings may hold.
    for number, line in enumerate(content.splitlines(), 1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(
                given=f"{path}, line {number}: {error.reason} at byte {error.start + 1}",
                expected="UTF-8 text",
                hint="save the file as UTF-8",
            ) from error
        if text.strip():
            yield number, text


def _parquet(path: Path) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise _missing_extra(path.name) from error
    try:
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise ConfigError(given=f"{path}: {error}", expected="a Parquet file", hint="write it again") from error
    return rows


def _hub(source: str, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise _missing_extra(source) from error
    try:
        yield from enumerate(load_dataset(source, split=split), 1)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            given=f"data from {source!r}: {str(error).splitlines()[0]}",
            expected="a built-in name, a .jsonl, .parquet or .txt file, or a hub data set that can be reached",
            hint="check the name and the network; a file must end in one of those",
        ) from error


def _missing_extra(what: str) -> ConfigError:
    return ConfigError(
        given=f"data from {what}",
        expected="the libraries that read them",
        hint='run: pip install "trimtab[train]"',
    )
