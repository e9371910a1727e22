"""Metrics: few series, whatever strangers ask for."""

import re


def counted(served):
    with served.client() as client:
        text = client.get("/metrics").text
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}


def test_requests_tokens_and_kl_are_counted(serve):
    served = serve()
    tokens = sum(served.post(seed=seed).json()["usage"]["completion_tokens"] for seed in range(3))
    assert served.post(n=0).status_code == 400
    with served.client() as client:
        client.get("/v1/models/kind")
    told = counted(served)
    assert told['trimtab_requests_total{route="/v1/completions",status="200"}'] == 3
    assert told['trimtab_requests_total{route="/v1/completions",status="400"}'] == 1
    assert told['trimtab_requests_total{route="/v1/models/",status="200"}'] == 1
    assert told["trimtab_generated_tokens_total"] == tokens and told["trimtab_prompt_tokens_total"] == 3
    assert told["trimtab_kl_nats_total"] > 0 and told["trimtab_steps"] > 0
    assert told["trimtab_request_seconds_count"] == 3 and told["trimtab_open_answers"] == 0


def test_strangers_make_no_new_series(serve):
    served = serve(keys=["correct-horse-battery"])
    with served.client() as client:
        for number in range(30):
            client.get(f"/v1/{number}")
            client.get(f"/v1/models/{number}")
    with served.client("correct-horse-battery") as client:
        text = client.get("/metrics").text
    assert len(re.findall("^trimtab_requests_total", text, re.M)) == 2


def test_streams_tell_the_first_token(serve):
    served = serve()
    assert served.post(stream=True).status_code == 200
    assert counted(served)["trimtab_time_to_first_token_seconds_count"] == 1
