"""The contract: whatever the document allows is answered as it says, and whatever it forbids is refused."""

from dataclasses import replace

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from trimtab import LM
from trimtab.rewards.reward import FunctionReward

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
]
PATHS = {
    "/v1/completions": "post",
    "/v1/chat/completions": "post",
    "/tokenize": "post",
    "/detokenize": "post",
    "/v1/score": "post",
    "/v1/models": "get",
    "/v1/models/{name}": "get",
    "/v1/policies": "get",
    "/health": "get",
    "/metrics": "get",
}


@pytest.fixture(scope="module")
def described(living, tiny_lm_folder):
    """Return a server of a tiny transformer that can chat, what its document says, and a session."""
    reward = FunctionReward(lambda completions, **_: [0.5] * len(completions), "half")
    model = LM.load(tiny_lm_folder)
    model.vocabulary.tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}w1"
    models = {"base": model, "guide": replace(model, label="again")}
    with living(models=models, reward=reward) as served, served.client() as client, requests.Session() as session:
        yield served, schemathesis.openapi.from_dict(client.get("/openapi.json").json()), session


def made_answerable(case):
    """Name what is there, and ask for little, so that what is well formed is answered and not only refused."""
    if isinstance(case.body, dict):
        known = {"model": "kind", "prompt": "w0 w1", "max_tokens": 3, "n": 2, "knobs": {"strength": 1.5}}
        known |= {"completions": ["a"], "tokens": [0, 1], "logprobs": 1, "stop": ["w3"]}
        case.body.update({name: value for name, value in known.items() if name in case.body})
        if case.path.startswith("/v1/c"):
            case.body.update(max_tokens=3, trimtab={"details": 1})


def fuzzed(described, path, mode, examples, change=lambda case: None):
    served, schema, session = described
    statuses = set()

    @seed(0)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=schema[path][PATHS[path]].as_strategy(mode))
    def run(case):
        change(case)
        response = case.call(base_url=served.url, session=session)
        statuses.add(response.status_code)
        # That a body is too large is a refusal too, which the check does not know.
        case.validate_response(
            response,
            checks=[each for each in CHECKS if response.status_code != 413 or each is not negative_data_rejection],
        )

    run()
    served.idle(20)
    return statuses


def test_every_route_is_in_the_document(described):
    assert {f"{each.ok().method} {each.ok().path}" for each in described[1].get_all_operations()} == {
        f"{method} {path}" for path, method in PATHS.items()
    }


@pytest.mark.parametrize("path", PATHS)
def test_what_is_allowed_is_answered_as_the_document_says(described, path):
    statuses = fuzzed(described, path, GenerationMode.POSITIVE, 25, made_answerable)
    assert statuses <= {200, 400, 404}
    assert 200 in statuses or path == "/v1/models/{name}"  # whose names are made up


@pytest.mark.parametrize("path", [path for path, method in PATHS.items() if method == "post"])
def test_what_is_forbidden_is_refused(described, path):
    statuses = fuzzed(described, path, GenerationMode.NEGATIVE, 40)
    assert statuses <= {400, 404, 413, 415}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", [path for path, method in PATHS.items() if method == "post"])
def test_much_more_of_both(described, path, mode):
    fuzzed(described, path, mode, 500)
