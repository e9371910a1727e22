"""Keys of clients: kept as hashes, compared in constant time, never written anywhere."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from trimtab.errors import ConfigError

VARIABLE = "TRIMTAB_API_KEYS"
"""The environment variable with the keys, separated by commas."""

SHORTEST = 16
"""Characters that a key must have."""


@dataclass(frozen=True)
class Keys:
    """The keys that open a server; none open it to everybody.

    Args:
        hashes: the SHA-256 of each.

    Example:
        >>> keys = Keys.of(["correct-horse-battery"])
        >>> keys.opens("correct-horse-battery"), keys.opens("correct-horse"), keys
        (True, False, Keys(1 keys))
    """

    hashes: tuple[bytes, ...] = field(default=(), repr=False)

    @staticmethod
    def of(texts: Iterable[str]) -> Keys:
        """Hash keys; ``sha256:HEX`` is the hash of one already.

        Raises:
            ConfigError: a key is too short, or holds what no header can.
        """
        return Keys(tuple(_hash(text) for text in texts))

    @staticmethod
    def read(path: Path) -> Keys:
        """Read a file with a key a line; lines that begin with # are left out.

        Raises:
            ConfigError: it cannot be read, holds none, or one that is too short.
        """
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                given=f"{path}, which cannot be read ({type(error).__name__})",
                expected="a file with a key a line",
                hint="check the path",
            ) from error
        keys = Keys.of(line.strip() for line in lines if line.strip() and not line.startswith("#"))
        if not keys:
            raise ConfigError(given=f"no keys in {path}", expected="at least one", hint="write a key a line")
        return keys

    def __bool__(self) -> bool:
        return bool(self.hashes)

    def __add__(self, other: Keys) -> Keys:
        return Keys(self.hashes + other.hashes)

    def opens(self, key: str) -> bool:
        """Return whether it is one of the keys; all are looked at, whichever it is."""
        given = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        return any([hmac.compare_digest(given, known) for known in self.hashes])

    def __repr__(self) -> str:
        return f"Keys({len(self.hashes)} keys)"


def _hash(text: str) -> bytes:
    if re.fullmatch(r"sha256:[0-9a-fA-F]{64}", text):
        return bytes.fromhex(text.removeprefix("sha256:"))
    if (
        text.startswith("sha256:")
        or len(text) < SHORTEST
        or not text.isascii()
        or not text.isprintable()
        or " " in text
    ):
        raise ConfigError(
            given=f"a key of {len(text)} characters",
            expected=f"at least {SHORTEST} printable ASCII characters without spaces, or sha256: and 64 hex digits",
            hint="python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one",
        )
    return hashlib.sha256(text.encode()).digest()
