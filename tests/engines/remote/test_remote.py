"""A remote model as a policy: the same as the model in memory, as far as the endpoint lets one know it."""

import json
import re

import pytest
import torch

import trimtab as tt
from trimtab.engines import LOCAL, REMOTE_TEXT, REMOTE_TOP_K, VLLM, explain
from trimtab.engines.remote import ToyEndpoint
from trimtab.engines.remote.remote import Uncut
from trimtab.errors import ConfigError, EndpointError, ModelError, UsageError, VocabularyError
from trimtab.policies.knob import Knob
from trimtab.policies.lm import LM
from trimtab.policies.mixture import mix
from trimtab.policies.support import top_k, within
from trimtab.policies.toy import Table
from trimtab.policies.vocabulary import Vocabulary
from trimtab.testing import check_policy, random_vector, tiny_lm
from trimtab.values import LogRatio

TABLE = Table.random(8, seed=0, end="t7", name="table")
GUIDE = Table.random(8, seed=1, end="t7", name="guide")
UNTUNED = Table.random(8, seed=2, end="t7", name="untuned")
PROMPTS = ["t0 t1 t2", "t3", "t3"]


def answers(policy, **settings):
    return policy.generate(PROMPTS, **({"n": 2, "max_new_tokens": 5, "seed": 4} | settings))


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert (one.token_ids, one.text, one.finish_reason) == (other.token_ids, other.text, other.finish_reason)
        for name in ("log_probs", "reference_log_probs", "kl"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-5), name


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "text"])
def test_with_the_whole_vocabulary_it_is_the_model_itself(serve, ids):
    remote = serve(TABLE, ids=ids).remote()
    assert remote.k == 8 and remote.capabilities.token_form == ("id" if ids else "text")
    assert torch.equal(remote.next_log_probs(PROMPTS), TABLE.next_log_probs(PROMPTS))
    found, expected = answers(remote), answers(TABLE)
    same(found, expected)
    assert all(mass == pytest.approx(1.0) for answer in found for mass in answer.covered)
    assert (remote.unknown, remote.recut) == (0, 0)


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "text"])
def test_with_k_tokens_it_is_the_model_cut_to_them(serve, ids):
    strength = Knob("strength", 1.0)
    remote = serve(TABLE, ids=ids, most=3).remote()
    pairs = [
        (remote, top_k(TABLE, 3)),
        (remote * GUIDE**strength / UNTUNED, top_k(TABLE, 3) * GUIDE**strength / UNTUNED),
        (GUIDE * remote**0.5, GUIDE * top_k(TABLE, 3) ** 0.5),
        (within(remote, 0.9), within(top_k(TABLE, 3), 0.9)),
    ]
    for policy, twin in pairs:
        knobs = {"strength": 1.7} if policy.knobs else None
        found, expected = answers(policy, knobs=knobs), answers(twin, knobs=knobs)
        same(found, expected)
        for one, other in zip(found, expected, strict=True):
            assert one.covered == pytest.approx(other.covered, abs=1e-5) and max(one.covered) < 1


def test_kl_is_measured_from_the_model_itself(serve):
    # p = 0.6, 0.2, 0.2; the two that come back hold 0.8: pi = 3/4, 1/4, and KL(pi || p) = -ln 0.8
    table = Table.of({"": {"a": 0.6, "b": 0.2, "c": 0.2}})
    remote = serve(table, most=2).remote()
    answer = remote.generate("a", max_new_tokens=1, temperature=0)[0]
    assert answer.log_probs == pytest.approx([-0.28768], abs=1e-5)  # ln 3/4
    assert answer.reference_log_probs == pytest.approx([-0.51083], abs=1e-5)  # ln 0.6
    assert answer.kl == pytest.approx([0.22314], abs=1e-5)
    assert answer.covered == pytest.approx([0.8])
    assert remote.reference == Uncut(remote) == remote.reference.reference
    assert str(remote.reference) == "uncut toy"
    assert remote.reference.next_log_probs(["a"]).exp()[0].tolist() == pytest.approx([0.6, 0.2, 0.0])


@pytest.mark.parametrize("most", [4, 8])
def test_it_obeys_the_laws(serve, most):
    remote = serve(TABLE, most=most).remote()
    check_policy(remote * GUIDE**0.7, [[0, 1, 2], [3], [4, 5]])


def test_tokens_that_are_impossible_stay_so(serve):
    table = Table.of({"": {"a": 0.5, "b": 0.5, "c": 0.0}})
    remote = serve(table).remote()
    assert remote.k == 3 and torch.equal(remote.next_log_probs(["a"]), table.next_log_probs(["a"]))


def test_drafts_and_blocks_need_no_more_than_prefixes(serve):
    remote = serve(TABLE, most=4).remote()
    found = answers(remote, draft=GUIDE, draft_tokens=2, temperature=0)
    same(found, answers(top_k(TABLE, 4), temperature=0))
    likely = TABLE.vocabulary.decode([int(remote.next_log_probs(["t0"]).argmax())])
    found, expected = (policy.log_probs("t0", f" {likely} t1") for policy in (remote, top_k(TABLE, 4)))
    assert torch.allclose(found, expected)


def test_a_prefix_is_asked_for_once_a_step(serve):
    service = serve(TABLE)
    remote = service.remote()
    before, asked = remote.meter, len(service.prompts)
    remote.next_log_probs(["t0 t1", "t0 t1", "t2"])
    assert service.prompts[asked:] in ([[0, 1], [2]], [[2], [0, 1]])
    answers(remote, max_new_tokens=1)  # two prompts that differ, one token
    used = remote.meter - before
    assert (used.calls, used.prompt_tokens, used.completion_tokens) == (4, 7, 4)


def test_a_state_stays_valid_when_others_step_from_it(serve):
    remote = serve(TABLE).remote()
    first, state = remote.init([[0], [1, 2]])
    block, _ = remote.step(state, torch.tensor([[3, 4], [5, 6]]))
    assert block.shape == (2, 2, 8) and remote.step(state, torch.zeros((2, 0), dtype=torch.long))[0].shape == (2, 0, 8)
    again, _ = remote.step(state.select([1]), torch.tensor([[5]]))
    assert torch.equal(again[:, 0], block[1:, 0])
    assert torch.equal(first, TABLE.init([[0], [1, 2]])[0])


def test_a_token_that_was_drawn_beside_the_k_likeliest_is_left_out(serve):
    service = serve(TABLE, most=3)
    remote = service.remote()

    def add_drawn(route, body, answer):
        top = answer["choices"][0]["logprobs"]["top_logprobs"]
        top[0] = {"token_id:99": -20.0, **top[0]}  # as vLLM does, in front
        return answer

    service.edit = add_drawn
    assert torch.equal(remote.next_log_probs(PROMPTS), top_k(TABLE, 3).next_log_probs(PROMPTS))
    assert remote.unknown == 0


def test_it_runs_as_it_is_where_policies_run(serve):
    remote = serve(TABLE, most=3).remote()
    verdicts = [explain(remote * GUIDE, abilities).verdict for abilities in (LOCAL, REMOTE_TOP_K, REMOTE_TEXT, VLLM)]
    assert verdicts == ["exact", "exact", "chunk search only", "impossible"]
    assert explain(GUIDE * remote, REMOTE_TOP_K).parts[1].reason.startswith("its own endpoint is asked")


def test_what_needs_every_token_is_refused(serve):
    remote = serve(TABLE, most=3).remote()
    for build in (
        lambda: GUIDE / remote,
        lambda: GUIDE * (GUIDE / (remote * UNTUNED)) ** 2,
        lambda: GUIDE / within(remote, 0.9),
        lambda: remote**-0.5,
        lambda: mix((0.5, GUIDE), (0.5, remote)),
        lambda: LogRatio(GUIDE, remote),
        lambda: LogRatio(remote, GUIDE),
        lambda: GUIDE / remote.reference,
    ):
        with pytest.raises(UsageError, match="its likeliest tokens only"):
            build()
    with pytest.raises(UsageError, match="no weights"):
        remote + random_vector(tiny_lm())
    free = GUIDE * remote ** Knob("w", 1.0, min=-2.0, max=2.0)
    assert free.generate("t0", max_new_tokens=1, knobs={"w": 0.5}, seed=0)
    for knobs in ({"w": -0.5}, [{"w": 1.0}, {"w": -0.5}]):
        with pytest.raises(UsageError, match="as a divisor"):
            free.generate(["t0"] * max(len(knobs), 1), max_new_tokens=1, knobs=knobs)
    assert GUIDE * (remote / remote) ** 0.5 == GUIDE  # nothing of it is left


def test_a_remote_that_is_pruned_is_not_asked(serve):
    service = serve(TABLE)
    policy = GUIDE * service.remote() ** Knob("w")
    asked = len(service.asked)
    same(answers(policy, knobs={"w": 0.0}), answers(GUIDE))
    assert len(service.asked) == asked


def lose(route, body, answer):
    """Edit an answer: one log-prob is missing."""
    top = answer["choices"][0]["logprobs"]["top_logprobs"][0]
    top.popitem()
    return answer


def rename(route, body, answer):
    """Edit an answer: the likeliest token is of no vocabulary."""
    top = answer["choices"][0]["logprobs"]["top_logprobs"][0]
    name = next(iter(top))
    answer["choices"][0]["logprobs"]["top_logprobs"][0] = {"zzz": top.pop(name), **top}
    return answer


def as_ids(route, body, answer):
    """Edit an answer: tokens are named by id all of a sudden."""
    top = answer["choices"][0]["logprobs"]["top_logprobs"][0]
    answer["choices"][0]["logprobs"]["top_logprobs"][0] = {f"token_id:{i}": v for i, v in enumerate(top.values())}
    return answer


def test_an_endpoint_that_changes_its_ways_is_an_error(serve):
    service = serve(TABLE, ids=False, most=4)
    remote = service.remote()
    service.edit = lose
    with pytest.raises(EndpointError, match="3 log-probs from toy, which was asked for 4"):
        remote.next_log_probs(["t0"])
    service.edit = as_ids
    with pytest.raises(EndpointError, match="where the endpoint gave them as text before"):
        remote.next_log_probs(["t0"])


def test_tokens_of_no_vocabulary_are_counted_and_lower_the_covered_mass(serve):
    table = Table.of({"": {"a": 0.6, "b": 0.3, "c": 0.1}})
    service = serve(table, ids=False, most=2)
    remote, alone = service.remote(), service.remote(k=1)
    service.edit = rename
    answer = remote.generate("a", max_new_tokens=1, temperature=0)[0]
    assert (answer.text, remote.unknown) == ("b", 1) and answer.covered == pytest.approx([0.3])
    with pytest.raises(VocabularyError, match="'zzz'"):
        alone.next_log_probs(["a"])


class Merging:
    """A tokenizer of x and xx; what is neither is read as x."""

    bos_token_id = None

    def __call__(self, text):
        return {"input_ids": [len(piece) - 1 for piece in re.findall("xx|.", text)]}

    def batch_decode(self, rows):
        return [self.decode(row) for row in rows]

    def decode(self, ids, **_):
        return "".join(("x", "xx")[i] for i in ids)


def test_prefixes_that_the_endpoint_cuts_into_other_tokens_are_counted(serve):
    words = Vocabulary(2, "merging", Merging())
    table = Table(words, (((1,), (0.9, 0.1)), ((), (0.5, 0.5))), "merging")  # 0.9 after xx
    by_ids, by_text = serve(table).remote(), serve(table, ids=False).remote()
    assert by_ids.init([[0, 0]])[0].exp()[0].tolist() == pytest.approx([0.5, 0.5])
    assert by_text.init([[1], [0, 1]])[0].exp()[:, 0].tolist() == pytest.approx([0.9, 0.5])  # xxx is cut into xx, x
    assert (by_ids.recut, by_text.recut) == (0, 1)
    assert by_text.init([[0, 0]])[0].exp()[0].tolist() == pytest.approx([0.9, 0.1])
    assert by_text.recut == 2


def test_an_endpoint_that_cannot_do_it_is_refused(serve):
    with pytest.raises(EndpointError, match="5 log-probs a token from toy") as caught:
        serve(TABLE, most=5).remote(k=6)
    assert caught.value.hint == "pass k=5 or less"
    with pytest.raises(EndpointError, match="no log-probs a token from toy"):
        serve(TABLE, most=0).remote()
    with pytest.raises(ModelError, match="'gpt'"):
        tt.Remote(serve(TABLE).client(), "gpt", tokenizer=TABLE.vocabulary)
    for k in (0, -1, True, 2.5):
        with pytest.raises(ConfigError, match="k="):
            serve(TABLE).remote(k=k)
    assert serve(TABLE, most=8).remote(k=99).k == 8


def test_a_prompt_that_is_too_long_for_the_endpoint_is_refused_here(serve):
    service = serve(TABLE)
    service.faults.append((200, b'{"data": [{"id": "toy", "max_model_len": 4}]}'))
    remote = service.remote()
    asked = len(service.asked)
    with pytest.raises(tt.TrimtabError, match="at most 4 tokens"):
        remote.generate("t0 t1", max_new_tokens=3)
    assert len(service.asked) == asked


def test_equal_remotes_are_one_factor(serve):
    service = serve(TABLE)
    one, two, narrow = service.remote(), service.remote(name="other"), service.remote(k=3)
    assert one == two and hash(one) == hash(two) and one != narrow and one != GUIDE
    assert str(one * two) == "toy^2" and repr(narrow) == "Remote('http://toy/v1', 'toy', k=3)"


def test_a_client_and_a_key_are_one_too_many(serve, key):
    with pytest.raises(ConfigError, match="a client and a key"):
        tt.Remote(serve(TABLE).client(), "toy", tokenizer=TABLE.vocabulary, key="TOY_KEY")


def test_remotes_of_one_address_share_a_client_and_its_meter(listen):
    endpoint = ToyEndpoint(TABLE)

    def answer(handler, route, body):
        status, said = endpoint.answer(route, body)
        content = json.dumps(said).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    url = listen(answer)
    one = tt.Remote(url, "toy", tokenizer=TABLE.vocabulary, device="cpu")
    asked = one.meter.calls
    two = tt.Remote(url, "toy", tokenizer=TABLE.vocabulary, k=2, device="cpu")
    assert one.meter.calls == two.meter.calls == asked  # and it was not probed again
    two.next_log_probs(["t0"])
    assert one.meter.calls == asked + 1


def test_the_tokenizer_of_a_folder(serve, tiny_lm_folder):
    base = LM.load(tiny_lm_folder, dtype="float32", device="cpu")
    for ids in (True, False):
        remote = serve(base, ids=ids, most=6).remote(tokenizer=tiny_lm_folder)
        assert remote.vocabulary.fingerprint == base.vocabulary.fingerprint
        assert remote.vocabulary.end_ids == base.vocabulary.end_ids
        policy = remote * base**0.5
        found, expected = (p.generate("w1 w2", max_new_tokens=4, seed=0) for p in (policy, top_k(base, 6) * base**0.5))
        assert found[0].token_ids == expected[0].token_ids
        assert found[0].kl == pytest.approx(expected[0].kl, abs=1e-4)
    with pytest.raises(ModelError, match="the tokenizer"):
        serve(base).remote(tokenizer=tiny_lm_folder / "nothing")
