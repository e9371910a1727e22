"""What a server counts, in the form that Prometheus reads."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from trimtab.serving.runner import Runner

ROUTES = (
    *("/", "/v1/completions", "/v1/chat/completions", "/v1/models", "/v1/policies", "/v1/score"),
    *("/tokenize", "/detokenize", "/health", "/metrics"),
)
"""Paths that are counted one by one."""

MODEL = "/v1/models/"
"""What the paths of single models begin with."""

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """Counters of one server; each server has a registry of its own.

    Args:
        runner: whose rows and steps are told.
    """

    def __init__(self, runner: Runner) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "trimtab_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self.prompt_tokens = Counter("trimtab_prompt_tokens", "Tokens of prompts.", registry=self._registry)
        self.tokens = Counter("trimtab_generated_tokens", "Tokens of answers.", registry=self._registry)
        self.kl = Counter("trimtab_kl_nats", "Sum of the exact KL to the base over tokens.", registry=self._registry)
        self.gone = Counter("trimtab_disconnects", "Requests whose client went away.", registry=self._registry)
        self.failed = Counter("trimtab_failed_answers", "Answers that broke.", registry=self._registry)
        self.first = Histogram(
            "trimtab_time_to_first_token_seconds",
            "Of streams, waiting included.",
            registry=self._registry,
            buckets=_SECONDS,
        )
        self.seconds = Histogram(
            "trimtab_request_seconds", "Of a request, to its last byte.", registry=self._registry, buckets=_SECONDS
        )
        open_ = Gauge("trimtab_open_answers", "Answers that run or wait.", registry=self._registry)
        open_.set_function(lambda: runner.open)
        steps = Gauge("trimtab_steps", "Steps of all engines so far.", registry=self._registry)
        steps.set_function(lambda: runner.steps)

    def answered(self, path: str, status: int) -> None:
        """Count a request; whatever is no route of ours counts as one, so that strangers make no new series."""
        route = path if path in ROUTES else MODEL if path.startswith(MODEL) else "other"
        self.requests.labels(route, str(status)).inc()

    def text(self) -> bytes:
        """Return all of them as ``/metrics`` has them."""
        return generate_latest(self._registry)
