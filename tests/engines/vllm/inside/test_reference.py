"""The reference inside vLLM: it answers as the plain base does, and says what answers cost under it."""

import pytest

from trimtab import LM
from trimtab.decoding.request import Request, Settings
from trimtab.decoding.sampling import Sampling
from trimtab.engines.base import AS_REFERENCE, REFERENCE, generate
from trimtab.errors import KnobError, PolicyError, PromptError, UsageError
from trimtab.policies.policy_file import read_policy_file

GREEDY = Settings(Sampling(temperature=0), max_new_tokens=16)
TEXTS = ["w1 w2 w3", "w9", "w30 w31 w32 w33 w34 w35 w36", "w7 w8"]


def load(source):
    return LM.load(source, dtype="float32")


def costs(answers):
    return [cost for answer in answers for cost in answer.log_probs]


def scored(engine, answers):
    """Return what answers cost under the reference, in one list."""
    texts = [(engine.vocabulary.encode(answer.prompt), answer.token_ids) for answer in answers]
    return [cost for each in engine.score(texts) for cost in each]


def like_the_local_engine(engine, policy, knobs):
    """The reference answers as the untouched base here, and reads sampled answers as it does here."""
    found = generate(engine, TEXTS, GREEDY, knobs=AS_REFERENCE)
    expected = policy.reference.generate(TEXTS, temperature=0, max_new_tokens=16)
    assert [answer.token_ids for answer in found] == [answer.token_ids for answer in expected]
    assert costs(found) == pytest.approx(costs(expected), abs=1e-4)
    answers = policy.generate(TEXTS, n=2, max_new_tokens=16, seed=0, knobs=knobs)
    costly = [cost for answer in answers for cost in answer.reference_log_probs]
    assert scored(engine, answers) == pytest.approx(costly, abs=1e-4)
    assert max(abs(a - b) for a, b in zip(costly, costs(answers), strict=True)) > 0.1  # they were steered


def test_the_reference_is_the_plain_base(policy_file, started, models_folder, vllm_arguments):
    file = policy_file("base * guide^strength", "{strength: {default: 1.0, min: -1, max: 2}}")
    engine, policy = started(file, metered=True), file.build(load)
    like_the_local_engine(engine, policy, {"strength": 1.5})
    refusals(engine)
    mixed = generate(engine, TEXTS, GREEDY, knobs=[AS_REFERENCE, {"strength": 2.0}] * 2)
    steered = policy.generate(TEXTS, temperature=0, max_new_tokens=16, knobs={"strength": 2.0})
    plain = plain_vllm(models_folder / "base", vllm_arguments)
    for place, answer in enumerate(mixed):
        tokens, found = plain[place] if place % 2 == 0 else (steered[place].token_ids, steered[place].log_probs)
        assert answer.token_ids == tuple(tokens) and answer.log_probs == pytest.approx(found, abs=1e-4)


def plain_vllm(folder, arguments):
    """Return the tokens and log-probs of vLLM's own answers from a model."""
    from vllm import SamplingParams
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    engine = LLMEngine.from_engine_args(EngineArgs(str(folder), enable_chunked_prefill=False, **arguments))
    vocabulary = load(str(folder)).vocabulary
    params = SamplingParams(temperature=0, max_tokens=16, logprobs=0)
    for number, text in enumerate(TEXTS):
        engine.add_request(str(number), {"prompt_token_ids": vocabulary.encode(text)}, params)
    found = {}
    while len(found) < len(TEXTS):
        for output in engine.step():
            if output.finished:
                (said,) = output.outputs
                costs = [each[token].logprob for each, token in zip(said.logprobs, said.token_ids, strict=True)]
                found[output.request_id] = (list(said.token_ids), costs)
    engine.engine_core.shutdown()
    return [found[str(number)] for number in range(len(TEXTS))]


def refusals(engine):
    """The reference has no knobs, leaves room to be read again, and is not read beside open requests."""
    for knobs in ({**AS_REFERENCE, "strength": 1.0}, {REFERENCE: 1.0}, {REFERENCE: False}):
        with pytest.raises(KnobError):
            engine.submit(Request((5,), knobs=knobs), GREEDY)
    with pytest.raises(PromptError, match="at most 159"):
        engine.submit(Request((5,) * 144), GREEDY)
    ticket = engine.submit(Request((5,) * 143), GREEDY)
    with pytest.raises(UsageError, match="busy"):
        engine.score([((5,), (6,))])
    updates = []
    while engine.busy:
        updates += engine.step()
    (answer,) = [update.answer for update in updates if update.ticket == ticket]
    ((*_, last),) = engine.score([((5,) * 143, answer.token_ids)])  # the longest that can be asked for
    assert last < 0


def test_vectors_and_a_text_before_the_prompt_are_no_part_of_it(started, models_folder, tmp_path):
    path = tmp_path / "seen.yaml"
    path.write_text(
        f"models:\n  a: {{source: {models_folder / 'base'}, prompt: w7 w8}}\n"
        f"  b: {{source: {models_folder / 'guide'}, prompt: w7 w8}}\n"
        f"vectors: {{medical: {models_folder / 'medical'}}}\npolicy: (a + 0.7 * medical) * b\n"
    )
    file = read_policy_file(path)
    like_the_local_engine(started(file, metered=True), file.build(load), {})


def test_a_base_that_is_no_factor_is_started_where_it_is_asked_for(policy_file, started):
    file = policy_file("lora * guide")
    with pytest.raises(PolicyError, match="metered=True"):
        started(file).score([((5,), (6,))])
    like_the_local_engine(started(file, metered=True), file.build(load), {})
