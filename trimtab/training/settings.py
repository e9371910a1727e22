"""Settings of training runs: checked, immutable values that are read from YAML and stored beside their results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimtab.errors import ConfigError


class Section(BaseModel):
    """Settings that refuse unknown names and numbers that are not finite, and cannot change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AdapterShape(Section):
    """The shape of the small part that is trained.

    Args:
        kind: "lora" trains low-rank factors; "full" trains every weight.
        rank: of the low-rank factors.
        alpha: their scale is alpha / rank.
        targets: module names the factors sit on, or "all-linear".
    """

    kind: Literal["lora", "full"] = "lora"
    rank: int = Field(16, ge=1)
    alpha: float = Field(32.0, gt=0)
    targets: str | list[str] = "all-linear"


class RunSettings(Section):
    """What every training run is told.

    Args:
        output: the run folder.
        seed: of everything random.
        dtype: of the frozen weights; trained parameters are float32.
        device: "auto", "cpu", "cuda", ...
    """

    output: Path = Path("runs/guide")
    seed: int = Field(0, ge=0, lt=2**32)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"

    @classmethod
    def read(cls, path: Path, overrides: Sequence[str] = ()) -> Self:
        """Read a YAML file and apply ``key=value`` overrides, where a key is dotted (``adapter.rank=8``).

        Raises:
            ConfigError: the file or an override cannot be read, or a setting is unknown or out of range.
        """
        return cls.of(read_yaml(path, overrides), str(path))

    @classmethod
    def of(cls, settings: dict[str, Any], where: str = "the settings") -> Self:
        """Check settings.

        Raises:
            ConfigError: one is unknown or out of range; the message names it.
        """
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise ConfigError(
                given=f"{name} = {first['input']!r} in {where}",
                expected=first["msg"].removeprefix("Value error, "),
                hint=f"the settings are {', '.join(cls.model_fields)}"
                if first["type"] == "extra_forbidden"
                else "change it in the file or with --set",
            ) from error

    def to_yaml(self) -> str:
        """Write every setting, defaults included."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def read_yaml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a YAML file of settings and apply ``key=value`` overrides.

    Raises:
        ConfigError: the file or an override cannot be read.
    """
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            given=f"{path}: {error}", expected="a YAML file with training settings", hint="see examples/train.yaml"
        ) from error
    if settings is not None and not isinstance(settings, dict):
        raise ConfigError(
            given=f"{path}, which holds a {type(settings).__name__}",
            expected="key: value lines",
            hint="see examples/train.yaml",
        )
    merged = dict(settings or {})
    for override in overrides:
        _apply(merged, override)
    return merged


def _apply(settings: dict[str, Any], override: str) -> None:
    """Put one ``a.b=value`` into nested settings."""
    key, equals, value = override.partition("=")
    names = key.split(".")
    if not equals or not all(names):
        raise ConfigError(
            given=f"--set {override}", expected="key=value, for instance adapter.rank=8", hint="add the = sign"
        )
    place = settings
    for name in names[:-1]:
        inner = place.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                given=f"--set {override}, where {name} is {inner!r}", expected="a section", hint="check the key"
            )
        place = inner
    try:
        place[names[-1]] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(given=f"--set {override}", expected="a YAML value", hint="quote it") from error
