"""The key of an endpoint: read from the environment, and shown to nobody."""

from __future__ import annotations

import os

from trimtab.errors import ConfigError


class Key:
    """A key that no repr, message or copy of one shows.

    Args:
        name: of the environment variable that holds it; None stands for an endpoint that asks for none.

    Raises:
        ConfigError: there is no such variable, or what it holds cannot stand in a header.

    Example:
        >>> import os
        >>> os.environ["TOY_KEY"] = "sk-toy"
        >>> key = Key("TOY_KEY")
        >>> key, key.hide("sk-toy is not known"), sorted(key.headers())
        (Key('TOY_KEY'), '*** is not known', ['Authorization'])
    """

    def __init__(self, name: str | None) -> None:
        self.name = name
        self._text = "" if name is None else _read(name)

    def headers(self) -> dict[str, str]:
        """Return the header that carries it, or nothing."""
        return {"Authorization": f"Bearer {self._text}"} if self._text else {}

    def hide(self, text: str) -> str:
        """Return a text without the key, which an endpoint may repeat."""
        return text.replace(self._text, "***") if self._text else text

    def __repr__(self) -> str:
        return f"Key({self.name!r})"


def _read(name: str) -> str:
    text = os.environ.get(name, "").strip()
    if not text:
        raise ConfigError(  # what was given may be the key itself, so it is not shown
            given="a key= that is no name of an environment variable, or of an empty one",
            expected="the name of the variable that holds the key, such as OPENAI_API_KEY",
            hint="export the variable first, or leave key out for an endpoint that asks for none",
        )
    if not (text.isascii() and text.isprintable() and " " not in text):
        raise ConfigError(
            given=f"{name} in the environment, which holds spaces, line breaks or letters beyond ASCII",
            expected="a key of one line",
            hint="export it again, without quotes inside",
        )
    return text
