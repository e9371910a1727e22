"""A client of OpenAI-compatible endpoints: sends JSON, tries again where that is safe, and counts what it used.

A request is sent again only where nothing of an answer can have been made: no connection, or 429, 502 and 503. It knows
neither tokens nor policies.
"""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn, TypeVar

from trimtab.engines.remote.key import Key
from trimtab.engines.remote.limits import Limits, retry_after
from trimtab.engines.remote.meter import Meter
from trimtab.errors import ConfigError, EndpointError

try:
    import httpx2
except ModuleNotFoundError as error:
    raise ConfigError(
        given="the module httpx2, which is not installed",
        expected="the extra `remote` of trimtab",
        hint='pip install "trimtab[remote]"',
    ) from error

_BUSY = {429, 502, 503}
_LONGEST_ANSWER = 2**26  # bytes; log-probs of 150,000 tokens take some 6 MB
_shared: weakref.WeakValueDictionary[tuple[str, str | None], Client] = weakref.WeakValueDictionary()
_A = TypeVar("_A")
_B = TypeVar("_B")


class Refused(EndpointError):
    """The endpoint answered that it will not do this: an unknown model, route or setting, or a failure of its own."""


class Client:
    """Talks to one endpoint; many threads may use it at once.

    Args:
        url: where the routes begin, such as ``https://api.openai.com/v1`` or ``http://localhost:8000/v1``.
        key: name of the environment variable that holds the key; None sends none.
        limits: how patient it is.
        transport: how requests travel, where not over the network.

    Raises:
        ConfigError: the address is none, or the key is not in the environment.

    Example:
        >>> from trimtab.engines.remote.toy import ToyEndpoint
        >>> from trimtab.policies.toy import Table
        >>> coin = ToyEndpoint(Table.of({"": {"heads": 0.75, "tails": 0.25}}))
        >>> client = Client("http://toy/v1", transport=httpx2.MockTransport(coin))
        >>> client.ask("completions", {"model": "toy", "prompt": "tails", "max_tokens": 1})["usage"]
        {'prompt_tokens': 1, 'completion_tokens': 1}
        >>> client.meter.calls, client.meter.prompt_tokens
        (1, 1)
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        limits: Limits = Limits(),  # noqa: B008 -- a frozen value
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.url, self.limits = _checked(url), limits
        self._key = Key(key)
        self._meter, self._lock = Meter(), threading.Lock()
        self._slots = threading.BoundedSemaphore(limits.concurrency)
        # No redirections, which would carry the key elsewhere.
        self._http = httpx2.Client(
            headers=self._key.headers(),
            timeout=httpx2.Timeout(limits.timeout, connect=limits.connect),
            limits=httpx2.Limits(max_connections=limits.concurrency),
            follow_redirects=False,
            transport=transport,
        )
        weakref.finalize(self, self._http.close)

    @property
    def meter(self) -> Meter:
        """What it has used so far."""
        return self._meter

    def close(self) -> None:
        """Close its connections; it does so by itself when nothing uses it any more."""
        self._http.close()

    def ask(self, route: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send one request and return its answer.

        Args:
            route: behind the address, such as ``completions``.
            body: what is posted as JSON; None gets.

        Returns:
            The answer, a JSON object.

        Raises:
            ConfigError: the endpoint does not take the key.
            Refused: it answers that it will not do this.
            EndpointError: it is down, slow, overloaded for longer than the limits, or its answer is no JSON object.
        """
        started, attempt, answer = time.perf_counter(), 0, dict[str, Any]()
        try:
            while True:
                try:
                    answer = self._once(route, body)
                    return answer
                except _Busy as busy:
                    pause = self.limits.pause_after(attempt, busy.wait)
                    if pause is None:
                        raise busy.error(attempt + 1) from busy.__cause__
                attempt += 1
                time.sleep(pause)
        finally:
            used = Meter(1, *_tokens(answer), retries=attempt, seconds=time.perf_counter() - started)
            with self._lock:
                self._meter += used

    def map(self, function: Callable[[_A], _B], items: Sequence[_A]) -> list[_B]:
        """Call a function that asks, for all items at once; returns results in order, or raises the first error."""
        if len(items) == 1:
            return [function(items[0])]
        pool = ThreadPoolExecutor(max(1, min(self.limits.concurrency, len(items))), "trimtab-remote")
        try:
            return [future.result() for future in [pool.submit(function, item) for item in items]]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _once(self, route: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        """Send a request a single time."""
        where, deadline = f"{self.url}/{route}", time.monotonic() + self.limits.timeout
        try:
            with (
                self._slots,
                self._http.stream("GET" if body is None else "POST", where, json=body) as response,
            ):
                content = _read(response, deadline)
        except httpx2.ConnectError as error:
            raise _Busy(_down(where, "no connection")) from error
        except (httpx2.TimeoutException, _TooSlow) as error:
            raise EndpointError(
                given=f"no whole answer from {where} in time",
                expected=f"a connection in {self.limits.connect:g} s and an answer in {self.limits.timeout:g} s",
                hint="raise Limits(timeout=...); it was not asked again, since it may be at work on the answer",
            ) from error
        except httpx2.HTTPError as error:
            raise _down(where, f"a broken connection ({type(error).__name__})") from error
        return self._judged(response, where, content)

    def _judged(self, response: httpx2.Response, where: str, content: bytes) -> dict[str, Any]:
        """Return a good answer; raise what a bad one means."""
        status = response.status_code
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if status in _BUSY:
            raise _Busy(
                EndpointError(
                    given=f"status {status} from {where}{self._said(answer)}",
                    expected="a free place",
                    hint="try later, lower Limits(concurrency=...), or raise its tries and longest_pause",
                ),
                retry_after(response.headers.get("Retry-After")),
            )
        if status in {401, 403}:
            self._unauthorised(status, where)
        if status != 200:
            raise Refused(
                given=f"status {status} from {where}{self._said(answer)}",
                expected="status 200",
                hint="check that the address ends where the routes begin (often /v1), and the name of the model",
            )
        if not isinstance(answer, dict):
            shown = self._key.hide(content.decode(errors="replace"))[:60]
            raise EndpointError(
                given=f"an answer of {where} that is no JSON object: {shown!r}",
                expected="what OpenAI-compatible endpoints answer",
                hint="check the address; a proxy or a login page may stand in between",
            )
        return answer

    def _said(self, answer: object) -> str:
        """Return what an endpoint said went wrong."""
        for name in ("error", "message", "detail"):
            if isinstance(answer, dict) and name in answer:
                answer = answer[name]
        return f": {self._key.hide(answer)[:300]}" if isinstance(answer, str) else ""

    def _unauthorised(self, status: int, where: str) -> NoReturn:
        name = self._key.name
        raise ConfigError(
            given=f"status {status} from {where}, asked {f'with the key in {name}' if name else 'without a key'}",
            expected="a key that the endpoint takes",
            hint=f"check {name}" if name else 'pass key="OPENAI_API_KEY", the name of the variable that holds it',
        )

    def __repr__(self) -> str:
        return f"Client({self.url!r})"


def client_of(endpoint: str | Client, key: str | None) -> Client:
    """Return the client of an address and a key, the one that there is if there is one.

    Args:
        endpoint: an address, or a client, which is returned as it is.
        key: name of the environment variable that holds the key.

    Raises:
        ConfigError: a client and a key, the address is none, or the key is not in the environment.
    """
    if isinstance(endpoint, Client):
        if key is not None:
            raise ConfigError(
                given="a client and a key=", expected="one of them", hint="the client has its key: Client(url, key=...)"
            )
        return endpoint
    client = _shared.get((endpoint, key))
    if client is None:
        client = _shared[endpoint, key] = Client(endpoint, key=key)
    return client


class _Busy(Exception):
    """Nothing was done, and it may be asked again."""

    def __init__(self, reason: EndpointError, wait: float | None = None) -> None:
        super().__init__()
        self.wait, self._reason = wait, reason

    def error(self, tries: int) -> EndpointError:
        """Return what to raise after the last try."""
        often = f", {tries} times" if tries > 1 else ""
        return EndpointError(self._reason.given + often, self._reason.expected, self._reason.hint)


class _TooSlow(Exception):
    """An answer trickles in for too long."""


def _down(where: str, what: str) -> EndpointError:
    return EndpointError(
        given=f"{what} to {where}",
        expected="an endpoint that answers",
        hint="check that it runs, its address and port, and the network",
    )


def _read(response: httpx2.Response, deadline: float) -> bytes:
    """Read an answer up to the time and the length that are allowed."""
    content = bytearray()
    for part in response.iter_bytes():
        content += part
        if time.monotonic() > deadline:
            raise _TooSlow
        if len(content) > _LONGEST_ANSWER:
            raise EndpointError(
                given=f"an answer of more than {_LONGEST_ANSWER} bytes",
                expected="log-probs of at most a vocabulary",
                hint="ask for fewer log-probs",
            )
    return bytes(content)


def _checked(url: str) -> str:
    """Return an address without its last slash, or refuse it; what may be a secret in it is not shown."""
    try:
        parsed = httpx2.URL(url)
        good = parsed.scheme in {"http", "https"} and bool(parsed.host) and not (parsed.userinfo or parsed.query)
    except (httpx2.InvalidURL, TypeError):
        good = False
    if not good:
        raise ConfigError(
            given="an address that does not begin with http:// or https:// and a host, or that holds a name or a query",
            expected="an address such as http://localhost:8000/v1",
            hint="keys go into the environment: key= names the variable",
        )
    return url.rstrip("/")


def _tokens(answer: Mapping[str, Any]) -> tuple[int, int]:
    """Return the tokens read and written, as far as the endpoint says."""
    usage = answer.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    read, written = (counts.get(name) for name in ("prompt_tokens", "completion_tokens"))
    return read if isinstance(read, int) else 0, written if isinstance(written, int) else 0
