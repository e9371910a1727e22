"""The one exception tree of trimtab: every message says what was given, what was expected, and how to repair it.

TrimtabError
├── UsageError            the caller asked for something that can never work (the command line exits with 2)
│   ├── ExpressionError       a policy expression or policy file cannot be read
│   ├── KnobError             an exponent is not finite, unknown, or outside its knob's range
│   ├── VocabularyError       policies over different vocabularies were combined
│   ├── PromptError           a prompt is empty or does not fit in the context
│   └── ConfigError           a setting, a path or a data file is wrong
└── RunError              the request was fine and the work failed (the command line exits with 1)
    ├── ModelError            a model, an adapter or a guide folder cannot be used
    ├── AssetError            something that had to be downloaded or unpacked is missing or damaged
    ├── PolicyError           a policy gave NaN, or the product's factors left no possible token
    ├── EndpointError         an endpoint is down, slow, refuses, or gives no answer that can be used
    ├── StateError            a decoding state was used with a policy or rows that it does not fit
    └── RewardError           a reward raised, or returned something that is not one finite number an answer
"""


class TrimtabError(Exception):
    """What trimtab raises for anything a user can repair: what was given, expected, and to try.

    Args:
        given: what the caller passed or what was found.
        expected: what would have worked.
        hint: what to try next.

    Example:
        >>> from trimtab.errors import KnobError
        >>> print(KnobError(given="strength=9", expected="a value from 0 to 3", hint="lower it"))
        given: strength=9
        expected: a value from 0 to 3
        try: lower it
    """

    exit_code = 1

    def __init__(self, given: str, expected: str, hint: str) -> None:
        super().__init__(given, expected, hint)
        self.given, self.expected, self.hint = given, expected, hint

    def __str__(self) -> str:
        return f"given: {self.given}\nexpected: {self.expected}\ntry: {self.hint}"


class UsageError(TrimtabError):
    """The caller asked for something that can never work."""

    exit_code = 2


class ExpressionError(UsageError):
    """A policy expression or a policy file cannot be read."""


class KnobError(UsageError):
    """An exponent is not finite, has no such knob, or lies outside the knob's range."""


class VocabularyError(UsageError):
    """Policies over different vocabularies were combined."""


class PromptError(UsageError):
    """A prompt is empty or does not fit in the model's context."""


class ConfigError(UsageError):
    """A setting, a path or a data file is wrong."""


class RunError(TrimtabError):
    """The request was fine and the work failed."""


class ModelError(RunError):
    """A model, an adapter or a guide folder cannot be used."""


class AssetError(RunError):
    """Something that had to be downloaded or unpacked is missing or damaged."""


class PolicyError(RunError):
    """A policy gave NaN, or a product's factors left no possible token."""


class EndpointError(RunError):
    """A model's endpoint is down, slow or overloaded, refuses a request, or gives no answer that can be used."""


class BusyError(RunError):
    """A pool was asked to take on more than its bounds allow."""


class StateError(RunError):
    """A decoding state was used with a policy or with rows that it does not fit."""


class RewardError(RunError):
    """A reward raised, or returned something that is not one finite number an answer."""
