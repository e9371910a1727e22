"""What answers look like, as JSON schemas: the fields that are always there, and what they hold."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number"}
MAYBE: Schema = {"type": ["number", "null"]}


def record(optional: dict[str, Schema] | None = None, **fields: Schema) -> Schema:
    """Return the schema of an object with these fields, all of them there but the optional ones."""
    return {"type": "object", "required": [*fields], "properties": {**fields, **(optional or {})}}


def many(schema: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": schema}


def one_of(*values: str) -> Schema:
    """Return the schema of one of some texts."""
    return {"enum": [*values]}


_FACTORS: Schema = {"type": "object", "additionalProperties": MAYBE}
_ALTERNATIVE = record(token=TEXT, id=COUNT, logprob=MAYBE, reference_logprob=MAYBE, factors=_FACTORS)
TOKEN = record(
    {"factors": _FACTORS, "alternatives": many(_ALTERNATIVE)},
    **{"token": TEXT, "id": COUNT, "logprob": MAYBE, "reference_logprob": MAYBE, "kl": MAYBE},
)
"""One token, with what steering did to it."""

_OWN = record({"tokens": many(TOKEN), "score": MAYBE, "found": {"type": "object"}}, kl=MAYBE)
_FINISH = one_of("stop", "length")
_TOLD = {"token": TEXT, "logprob": NUMBER, "bytes": many(COUNT)}
_CHAT_LOG_PROBS = record(content=many(record(**_TOLD, top_logprobs=many(record(**_TOLD)))))
_LOG_PROBS = record(
    tokens=many(TEXT),
    token_logprobs=many(NUMBER),
    top_logprobs={"anyOf": [many({"type": "object", "additionalProperties": NUMBER}), {"type": "null"}]},
    text_offset=many(COUNT),
)


def _reply(object_: str, log_probs: Schema, **said: Schema) -> Schema:
    choice = record(
        index=COUNT, finish_reason=_FINISH, logprobs={"anyOf": [log_probs, {"type": "null"}]}, trimtab=_OWN, **said
    )
    own = record(seed=COUNT, policy=TEXT, knobs={"type": "object", "additionalProperties": NUMBER})
    usage = record(prompt_tokens=COUNT, completion_tokens=COUNT, total_tokens=COUNT)
    head = {"id": TEXT, "object": one_of(object_), "created": COUNT, "model": TEXT, "system_fingerprint": TEXT}
    return record(**head, choices=many(choice), usage=usage, trimtab=own)


_MODEL = record(id=TEXT, object=one_of("model"), created=COUNT, owned_by=TEXT)
_KNOB = record(name=TEXT, default=NUMBER, min=MAYBE, max=MAYBE)
_SOURCE = record(name=TEXT, source=TEXT)
_POLICY = record(
    id=TEXT,
    object=one_of("policy"),
    expression=TEXT,
    reference=TEXT,
    knobs=many(_KNOB),
    factors=many(record(name=TEXT, exponent=TEXT)),
    models=many(_SOURCE),
    vectors=many(_SOURCE),
    chat={"type": "boolean"},
    context_length={"type": ["integer", "null"]},
    engine=TEXT,
    decoding={"type": "object"},
    search={"type": ["object", "null"]},
    searches=many(TEXT),
    reward={"type": ["string", "null"]},
    limits={"type": "object", "additionalProperties": COUNT},
)

HEALTH = record(status=TEXT)
"""Of ``/health``, whatever its status is."""

ERROR = record(
    error=record(message=TEXT, type=TEXT, param={"type": ["string", "null"]}, code={"type": ["string", "null"]})
)
"""Of everything that is refused or broke."""

ANSWERS: dict[str, Schema] = {
    "/v1/completions": _reply("text_completion", _LOG_PROBS, text=TEXT),
    "/v1/chat/completions": _reply(
        "chat.completion",
        _CHAT_LOG_PROBS,
        message=record(role=one_of("assistant"), content=TEXT, refusal={"type": "null"}),
    ),
    "/v1/models": record(object=one_of("list"), data=many(_MODEL)),
    "/v1/models/{name:path}": _MODEL,
    "/v1/policies": record(object=one_of("list"), data=many(_POLICY)),
    "/v1/score": record(reward=TEXT, scores=many(NUMBER)),
    "/tokenize": record(
        count=COUNT, max_model_len={"type": ["integer", "null"]}, tokens=many(COUNT), token_strs=many(TEXT)
    ),
    "/detokenize": record(prompt=TEXT),
    "/health": HEALTH,
}
"""Of routes that answer with JSON."""

STREAMS = ("/v1/completions", "/v1/chat/completions")
"""Routes that answer with events as well."""
