"""Where trimtab keeps what it downloads and trains, and how a folder gets there whole or not at all.

A folder under the home either exists complete or does not exist: it is built in a temporary sibling, under a lock, and
renamed into place. This file does not know what is in the folders.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from trimtab.errors import AssetError, ConfigError

Progress = Callable[[str], None]


def silent(message: str) -> None:
    """Drop a progress message: the default of every ``progress`` argument.

    Example:
        >>> silent("unpacking")
    """


def home() -> Path:
    """Return the folder of everything trimtab keeps: ``$TRIMTAB_HOME``, or ``trimtab`` in the user's cache directory.

    Returns:
        An absolute path. The first thing stored there makes the folder, so a complete home may be read-only.

    Example:
        >>> home().is_absolute()
        True
    """
    if chosen := os.environ.get("TRIMTAB_HOME"):
        return Path(chosen).expanduser().absolute()
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG specification asks that a relative path be ignored.
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "trimtab"


def check_writable(folder: Path) -> None:
    """Make ``folder`` if it is missing, and make sure that files can be created in it.

    Args:
        folder: where something is about to be stored.

    Raises:
        ConfigError: the folder cannot be made or written to.

    Example:
        >>> check_writable(Path("/dev/null/trimtab"))
        Traceback (most recent call last):
        ...
        trimtab.errors.ConfigError: given: the folder /dev/null/trimtab (Not a directory)
        expected: a folder that this user can write to
        try: set TRIMTAB_HOME to such a folder, or repair the permissions of this one
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(
            given=f"the folder {folder} ({error.strerror})",
            expected="a folder that this user can write to",
            hint="set TRIMTAB_HOME to such a folder, or repair the permissions of this one",
        ) from error


def make_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Return the folder ``target``, building it first if it is missing.

    However often, and from however many processes it is called, ``build`` runs to its end once; when it is interrupted
    or fails, ``target`` does not exist and the next call sweeps what was left and starts again.

    Args:
        target: the folder wanted.
        build: fills the empty folder it is given, which then becomes ``target``.

    Returns:
        ``target``.

    Raises:
        ConfigError: the place of ``target`` cannot be written to.
        AssetError: the operating system refused while building, for example because the disk is full.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     made = make_once(Path(folder) / "words", lambda room: (room / "a.txt").touch())
        ...     sorted(path.name for path in made.iterdir())
        ['a.txt']
    """
    if target.is_dir():
        return target
    check_writable(target.parent)
    with FileLock(target.parent / f".{target.name}.lock"):
        if target.is_dir():  # another process made it while this one waited
            return target
        room = target.parent / f".{target.name}.partial"
        try:
            # The lock is held, so a partial folder found here belongs to a process that was killed.
            shutil.rmtree(room, ignore_errors=True)
            room.mkdir()
            build(room)
            _share(room)
            room.rename(target)
        except OSError as error:
            raise AssetError(
                given=f"{error} while making {target}",
                expected="room and permission to write there",
                hint="free some disk space, or set TRIMTAB_HOME to another folder, and run it again",
            ) from error
        finally:
            shutil.rmtree(room, ignore_errors=True)
    return target


def _share(folder: Path) -> None:
    """Let whoever may read the folder read its files: safetensors leaves its own to their owner alone."""
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(folder.stat().st_mode & 0o666)
