"""Libraries that only the optional extra ``trimtab[eval]`` installs."""

from importlib import import_module
from types import ModuleType

from trimtab.errors import ConfigError


def extra(module: str) -> ModuleType:
    """Import a module of the extra ``eval``.

    Args:
        module: its dotted name.

    Returns:
        The module.

    Raises:
        ConfigError: it is not installed.

    Example:
        >>> extra("json").__name__
        'json'
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            given=f"the module {error.name}, which is not installed",
            expected="the extra `eval` of trimtab",
            hint='pip install "trimtab[eval]"',
        ) from error
