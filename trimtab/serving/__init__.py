"""An OpenAI-compatible server in which every request sets how it is steered, and a playground to see what that does.

One thread runs the engines; everything else is the event loop's. What a client sends is never code, a path, a template
or an address: it may name what the operator has loaded, and nothing else.
"""

from trimtab.errors import ConfigError

try:
    import fastapi  # noqa: F401
    import prometheus_client  # noqa: F401
    import uvicorn  # noqa: F401
except ModuleNotFoundError as error:
    raise ConfigError(
        given=f"the module {error.name}, which is not installed",
        expected="the extra `serve` of trimtab",
        hint='pip install "trimtab[serve]"',
    ) from error
