"""How long a client waits, how much it asks at once, and when it asks again. Knows no network."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from trimtab.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """How patient a client is.

    Args:
        timeout: longest time from sending a request to the last byte of its answer, in seconds.
        connect: longest time until a connection stands, in seconds.
        concurrency: requests under way at once, at least 1.
        tries: how often a request is sent at most, at least 1.
        pause: time before the first retry, in seconds; each further one waits twice as long, less up to a half of
            it by chance, so that clients that failed together do not come back together.
        longest_pause: longest time before a retry, in seconds; an endpoint that asks for more is not asked again.

    Raises:
        ConfigError: one of them is out of its range.

    Example:
        >>> Limits(pause=0.5, tries=3).pause_after(0, asked=2.0)  # the endpoint said how long
        2.0
        >>> 0.5 <= Limits(pause=0.5, tries=3).pause_after(1, asked=None) <= 1.0
        True
        >>> Limits(tries=3).pause_after(2, asked=None) is None  # that was the third try
        True
    """

    timeout: float = 60.0
    connect: float = 10.0
    concurrency: int = 8
    tries: int = 5
    pause: float = 0.5
    longest_pause: float = 30.0

    def __post_init__(self) -> None:
        least = {"timeout": 1e-3, "connect": 1e-3, "concurrency": 1, "tries": 1, "pause": 0, "longest_pause": 0}
        for field in fields(self):
            value: float = getattr(self, field.name)
            whole = field.name not in {"concurrency", "tries"} or isinstance(value, int)
            if not (whole and math.isfinite(value) and value >= least[field.name]):
                raise ConfigError(
                    given=f"{field.name}={value!r}",
                    expected=f"a {'whole ' if not whole else ''}number of at least {least[field.name]}",
                    hint=f"leave it out for {field.default!r}",
                )

    def pause_after(self, attempt: int, asked: float | None) -> float | None:
        """Return how long to wait after a failed try, in seconds, or None where it was the last.

        Args:
            attempt: its number, from 0.
            asked: how long the endpoint asked to wait, in seconds, if it did.
        """
        if attempt + 1 >= self.tries or (asked is not None and asked > self.longest_pause):
            return None
        if asked is not None:
            return asked
        return min(self.longest_pause, self.pause * 2.0**attempt) * random.uniform(0.5, 1.0)


def retry_after(header: str | None) -> float | None:
    """Read a ``Retry-After`` header: seconds or a date; returns seconds, or None where it says nothing.

    Example:
        >>> retry_after("1.5"), retry_after("Thu, 01 Jan 1970 00:00:00 GMT"), retry_after("soon"), retry_after(None)
        (1.5, 0.0, None, None)
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return None
        zoned = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
        seconds = (zoned - datetime.now(UTC)).total_seconds()
    return None if math.isnan(seconds) else max(seconds, 0.0)
