"""The run folder: who may write to it, and what it was started with."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from trimtab.errors import ConfigError
from trimtab.training.settings import RunSettings

CONFIG = "config.yaml"
_MAY_CHANGE = ("steps", "checkpoint_every", "output", "micro_rows")


def check_run(config: RunSettings, *, resume: bool, overwrite: bool) -> None:
    """Check that the run folder may be made, continued or replaced, and leave it as it is.

    Raises:
        ConfigError: the folder is taken, there is nothing to resume, or the run was started with other settings.
    """
    folder = config.output
    stored = folder / CONFIG
    if resume:
        _check_same(config, stored)
    elif folder.exists() and not folder.is_dir():
        raise ConfigError(
            given=f"the run folder {folder}, which is a file",
            expected="a folder",
            hint="choose another with --set output=...",
        )
    elif folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise ConfigError(
                given=f"the run folder {folder}, which is not empty",
                expected="a new folder",
                hint="continue it with --resume, replace it with --overwrite, or choose another with --set output=...",
            )
        if not stored.is_file():
            raise ConfigError(
                given=f"--overwrite of {folder}, which holds no run",
                expected=f"a folder with {CONFIG}",
                hint="choose another folder; only runs are replaced",
            )


def open_run(config: RunSettings, *, resume: bool, overwrite: bool) -> None:
    """Make the run folder; what it replaces is lost.

    Raises:
        ConfigError: see :func:`check_run`, or the folder cannot be written to.
    """
    check_run(config, resume=resume, overwrite=overwrite)
    folder = config.output
    stored = folder / CONFIG
    if stored.is_file() and not resume:
        shutil.rmtree(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stored.write_text(config.to_yaml(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            given=f"the run folder {folder} ({error.strerror})",
            expected="a folder that can be written to",
            hint="choose another with --set output=...",
        ) from error


def _check_same(config: RunSettings, stored: Path) -> None:
    """Refuse to continue a run with settings that would make it another run."""
    if not stored.is_file():
        raise ConfigError(
            given=f"--resume of {stored.parent}, which holds no run", expected="a run folder", hint="leave --resume out"
        )
    old = yaml.safe_load(stored.read_text(encoding="utf-8"))
    new = config.model_dump(mode="json")
    changed = [name for name in new if name not in _MAY_CHANGE and new[name] != old.get(name)]
    if changed:
        raise ConfigError(
            given=f"--resume with another {', '.join(changed)}",
            expected=f"the settings in {stored}; only {', '.join(_MAY_CHANGE)} may change",
            hint="resume with the old settings, or start a new run",
        )
