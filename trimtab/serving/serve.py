"""Starting the server: what it may listen on, and what is loaded for it."""

from __future__ import annotations

import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

import uvicorn

from trimtab.assets.store import Progress, silent
from trimtab.decoding.request import Bounds
from trimtab.decoding.search_plan import build_plan
from trimtab.engines.base import Engine
from trimtab.engines.local import LOCAL, LocalEngine
from trimtab.errors import ConfigError, RunError
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.policy_file import PolicyFile
from trimtab.rewards import Reward
from trimtab.serving.guard import LOOPBACK, Guard
from trimtab.serving.keys import VARIABLE, Keys
from trimtab.serving.limits import Limits
from trimtab.serving.menu import Menu
from trimtab.serving.runner import Runner
from trimtab.serving.service import Service

if TYPE_CHECKING:
    from trimtab.engines.vllm.engine import VLLMEngine

_T = TypeVar("_T")

SWITCH = 0.0005
"""Seconds after which a thread of Python gives way: the event loop must not hold the engines' thread up."""

DRAIN = 60
"""Seconds that running requests have to finish after a SIGTERM."""


def check_address(host: str, keys: Keys, *, open_to_all: bool) -> frozenset[str] | None:
    """Refuse to listen where strangers are without a key, unless that is wanted.

    Args:
        host: to listen on.
        keys: that open the server.
        open_to_all: whether a server without keys may be reached from elsewhere.

    Returns:
        The names that requests may call the server by; None is any.

    Raises:
        ConfigError: strangers could use it.

    Example:
        >>> sorted(check_address("127.0.0.1", Keys(), open_to_all=False))
        ['127.0.0.1', '[::1]', 'localhost']
    """
    if _is_loopback(host):
        return None if keys else LOOPBACK | {host}
    if not keys and not open_to_all:
        raise ConfigError(
            given=f"--host {host} without a key, where others than this machine reach the server",
            expected=f"keys, in the variable {VARIABLE} or by --keys FILE",
            hint="set one, leave --host out, or say --no-auth if everybody may use it",
        )
    return None


def aside(job: Callable[[], _T]) -> _T:
    """Do something in a thread that ends with it, and wait for it: loading models, before the engines' thread begins.

    The C library's OpenMP gives each thread that computes a team of its own. While there are more of them than cores
    none spins between its tasks, and a step of a small model takes half as long again.

    Example:
        >>> aside(lambda: 1 + 1)
        2
    """
    with ThreadPoolExecutor(1, "trimtab-aside") as executor:
        return executor.submit(job).result()


def local_service(menu: Menu, reward: Reward | None = None, *, metered: bool = True) -> Service:
    """Return a service on the local engine, with a row pool for each policy that clients ask for.

    Args:
        menu: what there is.
        reward: scores answers on request.
        metered: whether KL and log-probabilities under the reference are measured.
    """
    limits = menu.limits

    def make(policy: Hashable) -> Engine:
        assert isinstance(policy, Policy)
        return LocalEngine(policy, bounds=Bounds(rows=limits.rows), metered=metered)

    runner = Runner(make, most=limits.policies, answers=limits.rows + limits.waiting)
    return Service(menu, runner, LOCAL, lambda job: job.order.policy, reward)


@contextmanager
def vllm_service(
    name: str,
    file: PolicyFile,
    limits: Limits,
    *,
    load: Callable[[str], Leaf],
    reward: Reward | None = None,
    progress: Progress = silent,
) -> Iterator[Service]:
    """Yield a service on vLLM, which runs the policy of the file and its base; vLLM ends with it.

    Args:
        name: of the policy, as clients call it.
        file: the policy file.
        limits: on what clients may ask for.
        load: turns a model's name into the model; what a search scores by runs here, beside vLLM.
        reward: scores answers on request.
        progress: told what is going on.

    Raises:
        ConfigError: vLLM is not installed, or cannot run the policy.
    """
    from trimtab.engines.abilities import VLLM
    from trimtab.engines.vllm.engine import VLLMEngine

    search, arguments = file.search, {"max_num_seqs": limits.rows}
    value = None if search is None else aside(lambda: build_plan(search, load, progress=progress).value)
    engine = VLLMEngine(file, arguments, metered=True, progress=progress)
    try:
        longest = int(engine.engine.model_config.max_model_len)
        menu = Menu(name, file, file.sketch(), {}, {}, limits, engine.vocabulary, longest, value)
        runner = Runner(_Once(engine), most=1, answers=limits.rows + limits.waiting, anew=False)
        yield Service(menu, runner, VLLM, lambda job: "vllm", reward)
    finally:
        engine.close()


class _Once:
    """Gives the one engine that there is, once: when it has broken there is no other."""

    def __init__(self, engine: VLLMEngine) -> None:
        self._engine: VLLMEngine | None = engine

    def __call__(self, key: Hashable) -> Engine:
        if self._engine is None:
            raise RunError(given="vLLM, which has ended", expected="an engine that runs", hint="start the server anew")
        engine, self._engine = self._engine, None
        return engine


def take_address(host: str, port: int) -> socket.socket:
    """Take an address, before anything is loaded; nobody is answered there yet.

    Args:
        host: name or number.
        port: 0 takes any that is free.

    Raises:
        ConfigError: it is taken, or none of this machine's.

    Example:
        >>> with take_address("127.0.0.1", 0) as taken:
        ...     taken.getsockname()[1] > 0
        True
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with ExitStack() as ending:
            taken = ending.enter_context(socket.socket(family, kind, protocol))
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind(address)
            ending.pop_all()  # it is the caller's now
    except OSError as error:
        raise ConfigError(
            given=f"--host {host} --port {port}: {error.strerror}",
            expected="an address of this machine at which nothing listens",
            hint="another --port",
        ) from error
    return taken


def run(app: Guard, address: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C; running requests finish first."""
    logging.getLogger("trimtab.serving").setLevel(logging.INFO)
    sys.setswitchinterval(SWITCH)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _ended)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=DRAIN,
    )
    uvicorn.Server(config).run(sockets=[address])


def _ended(number: int, frame: FrameType | None) -> None:
    """Do nothing: uvicorn sends itself the signal again after the last request, and that is no failure."""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
