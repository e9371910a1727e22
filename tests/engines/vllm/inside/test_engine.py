"""The vLLM engine against the local one, in float32."""

import random
from itertools import pairwise

import pytest

from trimtab import LM
from trimtab.decoding.request import Request, Settings
from trimtab.decoding.sampling import Sampling
from trimtab.engines.base import generate
from trimtab.errors import ConfigError, KnobError, PromptError
from trimtab.policies.policy_file import read_policy_file

KNOBS = "{strength: {default: 1.0, min: -1, max: 2}, care: {default: 0.5, min: 0, max: 2}}"
GREEDY = Sampling(temperature=0)


def load(source):
    return LM.load(source, dtype="float32")


def prompts(count, seed=0, longest=100):
    """Return texts of 1 to 100 words, of which many begin alike."""
    draw = random.Random(seed)
    shared = [f"w{draw.randrange(198)}" for _ in range(longest)]
    return [
        " ".join(
            [*shared[: draw.choice([0, 20, 48])], *(f"w{draw.randrange(198)}" for _ in range(draw.randint(1, 50)))]
        )
        for _ in range(count)
    ]


def same(engine, policy, texts, settings, knobs):
    """Compare tokens and log-probs with the local engine's, and return the largest difference of these."""
    found = generate(engine, texts, settings, knobs=knobs)
    expected = policy.generate(
        texts,
        temperature=settings.sampling.temperature,
        repetition_penalty=settings.sampling.repetition_penalty,
        min_new_tokens=settings.min_new_tokens,
        max_new_tokens=settings.max_new_tokens,
        stop=settings.stop,
        knobs=knobs,
    )
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in expected]
    assert [answer.text for answer in found] == [answer.text for answer in expected]
    assert [answer.finish_reason for answer in found] == [answer.finish_reason for answer in expected]
    return max(
        abs(a - b)
        for one, two in zip(found, expected, strict=True)
        for a, b in zip(one.log_probs, two.log_probs, strict=True)
    )


def test_mixed_exponents_prompts_in_pieces_and_cached_prefixes_give_the_local_engines_answers(policy_file, started):
    file = policy_file("base * (guide / untuned)^strength * lora^care", KNOBS)
    engine = started(file, max_num_batched_tokens=64, enable_chunked_prefill=True)
    policy = file.build(load)
    draw = random.Random(1)
    texts = prompts(48)
    knobs = [{"strength": draw.choice([0, 0.5, 1, -0.3, 2, 0.7]), "care": draw.choice([0, 0.5, 1.3])} for _ in texts]
    for _ in range(2):  # the second time from the prefix cache
        assert same(engine, policy, texts, Settings(GREEDY, max_new_tokens=32), knobs) < 1e-4
    sampling = Sampling(temperature=0, repetition_penalty=1.3)
    settings = Settings(sampling, min_new_tokens=3, max_new_tokens=24, stop=("w1",))
    assert same(engine, policy, texts, settings, knobs) < 1e-4

    from vllm import SamplingParams

    ids = engine.vocabulary.encode(texts[0])
    engine.engine.add_request(
        "prompt", {"prompt_token_ids": ids}, SamplingParams(max_tokens=1, prompt_logprobs=0, extra_args=knobs[0])
    )
    (output,) = [each for _ in range(9) for each in engine.engine.step() if each.finished]
    found = [each[token].logprob for each, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
    expected = [
        policy.next_log_probs([engine.vocabulary.decode(ids[:length])], knobs=knobs[0])[0, ids[length]].item()
        for length in range(1, len(ids))
    ]
    assert found == pytest.approx(expected, abs=1e-4)

    base = load(file.models["base"].source)
    off = [{"strength": 0.0, "care": 0.0}] * 8
    found = generate(engine, texts[:8], Settings(GREEDY, max_new_tokens=16), knobs=off)
    assert [each.token_ids for each in found] == [
        each.token_ids for each in base.generate(texts[:8], temperature=0, max_new_tokens=16)
    ]

    with pytest.raises(ConfigError, match="in pieces"):  # a seed there ends vLLM 0.32 on a CPU
        engine.submit(Request((5,)), Settings())


def test_requests_are_drawn_by_their_seeds_refused_and_cancelled_one_by_one(policy_file, started):
    engine = started(policy_file("base * guide^strength", "{strength: {default: 1.0, min: -1, max: 2}}"))
    texts = prompts(4)
    settings = Settings(Sampling(top_p=0.9), max_new_tokens=8, seed=7)
    first, again = (generate(engine, texts[:4], settings, n=3) for _ in range(2))
    alone = generate(engine, texts[2:3], settings, n=3)
    assert first == again and alone == first[6:9] and len({answer.token_ids for answer in first[:3]}) == 3
    refusals(engine)
    half_refused(engine)
    cancellation(engine)
    broken_answers(engine)


def refusals(engine):
    """Everything that is wrong is refused, and nothing of it reaches vLLM."""
    good = Request((5, 6), knobs={"strength": 1.0})
    for wrong, settings, error in [
        (Request((5,), knobs={"strenght": 1.0}), Settings(), KnobError),
        (Request((5,), knobs={"strength": 2.1}), Settings(), KnobError),
        (Request((5,), knobs={"strength": float("nan")}), Settings(), KnobError),
        (Request(()), Settings(), PromptError),
        (Request((200,)), Settings(), PromptError),
        (Request((5,) * 100), Settings(max_new_tokens=61), PromptError),
        (good, Settings(Sampling(min_p=0.1, top_p=0.9)), ConfigError),
        (good, Settings(stop_ids=(200,)), ConfigError),
        (good, Settings(stop_ids=(-1,)), ConfigError),
    ]:
        with pytest.raises(error):
            engine.submit(wrong, settings)
    assert not engine.busy


def half_refused(engine):
    """Where vLLM refuses the second of three answers it keeps none, and the engine goes on."""
    from vllm.exceptions import VLLMValidationError

    add = engine.engine.add_request
    for error in (ValueError("too much"), VLLMValidationError("too much")):
        added = []

        def refusing(key, *told, added=added, error=error, **named):
            added.append(key)
            if len(added) == 2:
                raise error
            return add(key, *told, **named)

        engine.engine.add_request = refusing
        with pytest.raises(ConfigError, match="too much"):
            engine.submit(Request((5, 6), 3), Settings(max_new_tokens=4))
        engine.engine.add_request = add
        assert len(added) == 2 and not engine.busy and not engine.engine.has_unfinished_requests()
    assert len(generate(engine, ["w1"], Settings(GREEDY, max_new_tokens=4))[0].token_ids) == 4


def broken_answers(engine):
    """An answer that vLLM ends for a reason of its own is told with an error."""
    run = engine.engine.step

    def breaking():
        outputs = run()
        for output in outputs:
            if output.finished:
                output.outputs[0].finish_reason = "repetition"
        return outputs

    engine.engine.step = breaking
    engine.submit(Request((5, 6)), Settings(GREEDY, max_new_tokens=2))
    told = [update for _ in range(9) for update in engine.step()]
    engine.engine.step = run
    (update,) = told
    assert update.answer.finish_reason == "error" and "'repetition'" in str(update.error) and not engine.busy


def cancellation(engine):
    """A cancelled request ends as cancelled; others go on."""
    left, kept = (engine.submit(Request((5, 6, 7)), Settings(GREEDY, max_new_tokens=12), stream=True) for _ in range(2))
    engine.step()
    engine.cancel(left)
    engine.cancel(99)
    updates = []
    while engine.busy:
        updates += engine.step()
    ended = {update.ticket: update.answer.finish_reason for update in updates if update.answer is not None}
    assert ended == {left: "cancelled", kept: "length"}
    texts = [update.text for update in updates if update.ticket == kept]
    assert len(texts) > 5 and all(after.startswith(before) for before, after in pairwise(texts))


def test_vectors_are_mixed_for_each_request_as_the_local_engine_adds_them(policy_file, started):
    knobs = "{care: {default: 0.7, min: -1, max: 2}, law: {default: 0, min: -1, max: 2}, strength: {default: 1}}"
    file = policy_file("(base + care * medical + law * legal) * guide^strength", knobs)
    engine, policy = started(file), file.build(load)
    draw = random.Random(2)
    texts = prompts(12, seed=3)
    bound = [
        {"care": draw.choice([0.0, 0.7, -0.3]), "law": draw.choice([0.0, 1.25]), "strength": draw.choice([0.0, 0.5])}
        for _ in texts
    ]
    assert same(engine, policy, texts, Settings(GREEDY, max_new_tokens=16), bound) < 1e-4


def test_a_text_that_all_lms_see_before_the_prompt_is_part_of_it(started, models_folder, tmp_path):
    path = tmp_path / "seen.yaml"
    path.write_text(
        f"models:\n  a: {{source: {models_folder / 'base'}, prompt: w7 w8}}\n"
        f"  b: {{source: {models_folder / 'guide'}, prompt: w7 w8}}\npolicy: a * b\n"
    )
    file = read_policy_file(path)
    assert same(started(file), file.build(load), ["w1 w2", "w3"], Settings(GREEDY, max_new_tokens=8), {}) < 1e-4


def test_two_ranks_give_the_answers_of_one(policy_file, started, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
    file = policy_file("base * (guide / untuned)^strength", "{strength: {default: 1.0, min: -1, max: 2}}")
    engine, policy = started(file, tensor_parallel_size=2), file.build(load)
    texts = prompts(6, seed=4)
    knobs = [{"strength": value} for value in (0, 0.5, -0.3, 1, 2, 0.7)]
    assert same(engine, policy, texts, Settings(GREEDY, max_new_tokens=12), knobs) < 1e-4
