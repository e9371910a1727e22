"""What vLLM is told of a policy: its LMs, and the exponent of each as a function of the knobs that a request binds.

It is plain JSON, which travels to every process and node: in the model's configuration to those that run it, in an
environment variable to those that check requests. Nothing here imports vLLM.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trimtab.engines.base import REFERENCE
from trimtab.errors import ConfigError, KnobError, PolicyError
from trimtab.policies.base import Leaf, Policy
from trimtab.policies.knob import Exponent, Knob, bind, declared_knobs
from trimtab.policies.product import Product

ARCHITECTURE = "TrimtabForCausalLM"
"""What vLLM calls the model that holds all LMs."""

VARIABLE = "TRIMTAB_VLLM_PLAN"
"""The environment variable with the plan that requests are checked against."""

_VLLMS_OWN = frozenset({"kv_transfer_params", "ec_transfer_params"})


@dataclass(frozen=True)
class Plan:
    """The LMs of a product and their exponents.

    Args:
        models: folder or hub id of each LM; the first is what vLLM calls the model.
        exponents: one a model.
        columns: how many token ids all of them know.
        reference: which of the models is the policy's untouched base; None where none is.

    Example:
        >>> strength = Knob("strength", 1.0, min=0.0, max=2.0)
        >>> plan = Plan(("base", "guide"), (Exponent.of(1.0), Exponent.of(strength)), 100)
        >>> plan.weights({}), plan.weights({"strength": 0.5})
        ((1.0, 1.0), (1.0, 0.5))
        >>> Plan(plan.models, plan.exponents, 100, reference=0).weights({REFERENCE: True})
        (1.0, 0.0)
        >>> Plan.from_json(plan.to_json()) == plan
        True
    """

    models: tuple[str, ...]
    exponents: tuple[Exponent, ...]
    columns: int
    reference: int | None = None

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs that the exponents depend on."""
        return declared_knobs(knob for exponent in self.exponents for knob in exponent.knobs)

    @property
    def floored(self) -> tuple[bool, ...]:
        """Which LMs some request may divide by: then their log-probabilities have a floor."""
        return tuple(_may_be_negative(exponent) for exponent in self.exponents)

    def weights(self, given: Mapping[str, object]) -> tuple[float, ...]:
        """Return the exponents of a request.

        Args:
            given: knob to value; what is left out has its default. Or :data:`~trimtab.engines.base.REFERENCE` alone,
                with the value True, which asks for the reference.

        Raises:
            KnobError: there is no such knob, or a value is no number in its range.
            PolicyError: every exponent is 0, or none of the LMs is the reference that is asked for.
        """
        # vLLM's server makes numbers of what clients send, so that none of them asks for it by mistake.
        if given.get(REFERENCE) is True and len(given) == 1:
            return self._reference()
        values = {name: _number(name, value) for name, value in given.items()}
        bound = bind(self.knobs, [values])
        weights = tuple(float(exponent.values(bound)) for exponent in self.exponents)
        if not any(weights):
            raise PolicyError(
                given=f"{values or 'the defaults of the knobs'}, which make every exponent 0",
                expected="at least one other exponent",
                hint="keep the base's exponent away from 0 when the guides' are 0",
            )
        if not all(math.isfinite(weight) for weight in weights):
            raise KnobError(
                given=f"{values}, an exponent of which overflows", expected="smaller values", hint="see above"
            )
        return weights

    def _reference(self) -> tuple[float, ...]:
        """Return the exponents with which the reference alone is left."""
        if self.reference is None:
            raise PolicyError(
                given="a request to the reference, which is none of the LMs that were started",
                expected="an engine that was started with it",
                hint="VLLMEngine(file, metered=True)",
            )
        return tuple(float(number == self.reference) for number in range(len(self.models)))

    def to_json(self) -> str:
        """Write it as JSON, infinite ends of ranges as null."""
        knobs = [
            {"name": knob.name, "default": knob.default, "min": _finite(knob.min), "max": _finite(knob.max)}
            for knob in self.knobs
        ]
        exponents = [
            [{"coefficient": coefficient, "knobs": [knob.name for knob in knobs]} for knobs, coefficient in each.terms]
            for each in self.exponents
        ]
        told = {"models": self.models, "knobs": knobs, "exponents": exponents}
        return json.dumps({**told, "columns": self.columns, "reference": self.reference})

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read what :meth:`to_json` wrote."""
        content: dict[str, Any] = json.loads(text)
        knobs = {
            each["name"]: Knob(
                each["name"],
                each["default"],
                min=-math.inf if each["min"] is None else each["min"],
                max=math.inf if each["max"] is None else each["max"],
            )
            for each in content["knobs"]
        }
        exponents = tuple(
            Exponent(tuple((tuple(knobs[name] for name in term["knobs"]), term["coefficient"]) for term in terms))
            for terms in content["exponents"]
        )
        return Plan(tuple(content["models"]), exponents, content["columns"], content["reference"])


def factors(policy: Policy) -> tuple[tuple[Leaf, Exponent], ...]:
    """Return the LMs of a product of LMs with their exponents; the base of the product comes first if it is one.

    Raises:
        ConfigError: it is more than a product of LMs.
    """
    if isinstance(policy, Leaf):
        return ((policy, Exponent.of(1.0)),)
    found = policy.factors if isinstance(policy, Product) else ()
    kept = tuple((leaf, exponent) for leaf, exponent in found if isinstance(leaf, Leaf))
    if not kept or len(kept) < len(found):
        raise ConfigError(
            given=f"{policy}", expected="a product of LMs", hint="`trimtab doctor POLICY` says what runs where"
        )
    return kept


def plan_of_environment() -> Plan:
    """Return the plan that this process checks requests against.

    Raises:
        ConfigError: there is none.
    """
    text = os.environ.get(VARIABLE)
    if text is None:
        raise ConfigError(
            given=f"no {VARIABLE} in the environment",
            expected="the plan that requests are checked against",
            hint="start vLLM by `trimtab vllm POLICY`, which sets it",
        )
    return Plan.from_json(text)


def knobs_in(extra: Mapping[str, object] | None) -> dict[str, object]:
    """Return what a request's extra arguments say of knobs: all that are not vLLM's own."""
    return {name: value for name, value in (extra or {}).items() if name not in _VLLMS_OWN}


def _number(name: str, value: object) -> float:
    """Return a knob's value, which a client may have sent as anything."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return float(value)
    shown = type(value).__name__ if isinstance(value, int) else repr(value)[:40]
    hint = f'send {{"vllm_xargs": {{"{name}": 1.5}}}}'
    raise KnobError(given=f"{name}: {shown}", expected="a finite number", hint=hint)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _may_be_negative(exponent: Exponent) -> bool:
    """Return whether a sum of terms can be below 0, judged term by term; never wrong where it says no."""
    return any(coefficient < 0 or any(knob.min < 0 for knob in knobs) for knobs, coefficient in exponent.terms)
