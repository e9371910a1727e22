"""Training prompts from the built-in reviews, a JSONL, Parquet or text file, or a hub data set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trimtab.assets.datasets import review_prompts
from trimtab.errors import ConfigError
from trimtab.training.config import PromptsConfig

_SUFFIXES = {".jsonl", ".parquet", ".txt"}


def read_prompts(config: PromptsConfig) -> list[dict[str, Any]]:
    """Read prompts with their other columns, which rewards receive.

    Args:
        config: where they are.

    Returns:
        One mapping a prompt; the prompt itself is under ``"prompt"``.

    Raises:
        ConfigError: there are none, a file is missing or broken (with its line), or the column is missing.
    """
    if config.source == "reviews":
        rows: list[dict[str, Any]] = [{"prompt": prompt} for prompt in review_prompts("train")]
    else:
        path = Path(config.source)
        found = _file(path) if path.suffix in _SUFFIXES or path.exists() else _hub(config)
        rows = [_with_prompt(row, number, config) for number, row in found]
    rows = rows[: config.limit]
    if not rows:
        raise ConfigError(
            given=f"{config.source}, which holds no prompts", expected="at least one prompt", hint="check the file"
        )
    return rows


def _file(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line or row number, row)."""
    if path.suffix not in _SUFFIXES:
        raise ConfigError(
            given=f"the prompts file {path}", expected=f"a name that ends in {sorted(_SUFFIXES)}", hint="rename it"
        )
    if not path.is_file():
        raise ConfigError(
            given=f"the prompts file {path}, which does not exist", expected="a file", hint="check the path"
        )
    if path.suffix == ".parquet":
        yield from enumerate(_parquet(path), 1)
        return
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        if path.suffix == ".txt":
            yield number, {"prompt": line}
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
                expected='one JSON object a line, such as {"prompt": "The film was"}',
                hint="wrap the text in an object",
            )
        yield number, row


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


def _hub(config: PromptsConfig) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise _missing_extra(config.source) from error
    try:
        yield from enumerate(load_dataset(config.source, split=config.split), 1)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(
            given=f"prompts from {config.source!r}: {str(error).splitlines()[0]}",
            expected="'reviews', a .jsonl, .parquet or .txt file, or a hub data set that can be reached",
            hint="check the name and the network; a file must end in one of those",
        ) from error


def _missing_extra(what: str) -> ConfigError:
    return ConfigError(
        given=f"prompts from {what}",
        expected="the libraries that read them",
        hint='run: pip install "trimtab[train]"',
    )


def _with_prompt(row: dict[str, Any], number: int, config: PromptsConfig) -> dict[str, Any]:
    """Check one row and put its prompt under "prompt"."""
    column = "prompt" if config.source.endswith(".txt") else config.column
    if column not in row:
        raise ConfigError(
            given=f"{config.source}, row {number}, with the columns {sorted(row)}",
            expected=f"a column {column!r}",
            hint="set prompts.column to the column that holds the prompt",
        )
    if not isinstance(row[column], str) or not row[column].strip():
        raise ConfigError(
            given=f"{config.source}, row {number}: the prompt {row[column]!r}",
            expected="a text that is not empty",
            hint="repair or delete that row",
        )
    return {**row, "prompt": row[column]}
