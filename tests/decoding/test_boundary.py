"""Chunks end where they should, ragged ones too; rows that have reached their ends wait, and nothing is wasted."""

import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from trimtab.decoding.boundary import Texts, Tokens, Uncertain, lines, read_boundary, sentences
from trimtab.decoding.search import search
from trimtab.decoding.shape import Resample, Shape, best_of_n, chunk_beam, smc, speculative_rejection
from trimtab.decoding.stepper import Stepper
from trimtab.errors import ConfigError, PolicyError, RewardError
from trimtab.policies.advance import sequence_log_probs
from trimtab.policies.knob import Knob
from trimtab.policies.lm import LM
from trimtab.policies.toy import Table
from trimtab.policies.vocabulary import Vocabulary
from trimtab.testing import tiny_lm, with_lora
from trimtab.values import LogRatio, PrefixValue, RewardValue

BASE = Table.random(6, seed=0, end="t5", name="base")
TUNED, UNTUNED = (Table.random(6, seed=seed, end="t5", name=f"table{seed}") for seed in (1, 2))
GUIDED = BASE * (TUNED / UNTUNED) ** 0.5
VALUE = LogRatio(TUNED, UNTUNED)
PROMPTS = ["t1 t2", "t3", "t1 t2", "t0 t0 t4"]
BOUNDARIES = [
    Tokens(3),
    Texts(("t0", "t2 t2"), longest=4),
    Texts(("t1",)),
    Uncertain(1.4, longest=5),
    Uncertain(1.0, shortest=2),
    Uncertain(9.0, longest=3),
]
LENGTH = RewardValue(lambda completions, **_: [float(len(text.split())) for text in completions])


def told(found):
    return [([(answer.token_ids, score) for answer, score in each.hypotheses], each.trace) for each in found]


def log_ratio(prompt, tokens, tuned=TUNED, untuned=UNTUNED):
    """Sum the log-ratio over an answer from scratch."""
    prompt = tuned.vocabulary.encode(prompt)
    with torch.no_grad():
        both = [float(sequence_log_probs(model, [prompt], [list(tokens)])[0].sum()) for model in (tuned, untuned)]
    return both[0] - both[1]


# -- identities ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", [*BOUNDARIES, None, 2], ids=str)
@pytest.mark.parametrize("policy", [BASE, GUIDED, tiny_lm(6)], ids=["table", "guided", "transformer"])
def test_one_beam_of_one_branch_is_sampling(policy, boundary):
    settings = {"max_new_tokens": 9, "seed": 3, "repetition_penalty": 1.2}
    found = search(policy, PROMPTS, LENGTH, Shape(1, 1, boundary), **settings)
    assert [each.best.token_ids for each in found] == [a.token_ids for a in policy.generate(PROMPTS, **settings)]


def test_rows_that_wait_keep_their_knobs():
    policy = BASE * (TUNED / UNTUNED) ** Knob("w", 0.5)
    settings = {"max_new_tokens": 9, "seed": 3, "knobs": [{"w": 0.1 * i} for i in range(4)]}
    found = search(policy, PROMPTS, VALUE, Shape(1, 1, Texts(("t0", "t1"))), **settings)
    assert [each.best for each in found] == policy.generate(PROMPTS, **settings)


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=str)
@pytest.mark.parametrize("shape", [chunk_beam(2, 3), speculative_rejection(5), smc(4)], ids=["beam", "cut", "smc"])
def test_a_prompt_finds_the_same_alone_and_with_others(shape, boundary):
    shape = Shape(shape.beams, shape.branches, boundary, shape.keep)
    prompts = ["t1 t2", "t3", "t0 t0 t4"]
    together = search(GUIDED, prompts, VALUE, shape, max_new_tokens=9, seed=7)
    alone = [search(GUIDED, prompt, VALUE, shape, max_new_tokens=9, seed=7)[0] for prompt in prompts]
    waves = search(GUIDED, prompts, VALUE, shape, max_new_tokens=9, seed=7, max_rows=2 * shape.rows)
    assert told(together) == told(alone) == told(waves)


def test_equal_chunks_are_numbers_of_tokens():
    shapes = [chunk_beam(2, 3, chunk) for chunk in (3, Tokens(3), Uncertain(99.0, longest=3))]
    first, *others = (told(search(BASE, PROMPTS, VALUE, shape, max_new_tokens=8, seed=1)) for shape in shapes)
    assert others == [first, first]


def test_a_chunk_may_be_longer_than_the_answer():
    whole = search(BASE, PROMPTS, VALUE, best_of_n(5), max_new_tokens=8, seed=1)
    for boundary in (Texts(("nowhere",)), Uncertain(99.0), Tokens(50)):
        assert told(search(BASE, PROMPTS, VALUE, Shape(1, 5, boundary), max_new_tokens=8, seed=1)) == told(whole)


# -- where chunks end ------------------------------------------------------------------------------------------------


def test_chunks_end_with_the_token_that_completes_a_text():
    boundary = Texts(("t0", "t2 t2"), longest=4)
    (found,) = search(BASE, "t1", VALUE, chunk_beam(3, 4, boundary), max_new_tokens=14, seed=2)
    ends = 0
    for node in found.trace.nodes:
        *words, last = node.text.split() or [""]
        before = " ".join(words)
        assert "t0" not in before and "t2 t2" not in before  # nothing that is complete goes on
        complete = last == "t0" or node.text.endswith("t2 t2")
        assert node.finish or complete or node.tokens == 4
        ends += complete and not node.finish
    assert ends > 5 and len({node.tokens for node in found.trace.nodes}) > 2


def test_chunks_end_where_the_next_token_is_uncertain():
    """After b any of four words may follow, entropy log 4 = 1.386; after the others exactly one may, entropy 0."""
    any_word = dict.fromkeys("abcd", 0.25)
    words = Table.of({"": any_word, "a": {"c": 1.0}, "c": {"b": 1.0}, "d": {"b": 1.0}})
    chunks = {"a c b", "b", "c b", "d b"}
    for temperature in (1.0, 0.2):  # it is the policy's own entropy, whatever is sampled from
        settings = {"max_new_tokens": 12, "temperature": temperature, "seed": 0}
        (found,) = search(words, "b", LENGTH, chunk_beam(2, 8, Uncertain(1.38)), **settings)
        assert {node.text for node in found.trace.nodes if not node.finish} == chunks
    (found,) = search(words, "b", LENGTH, chunk_beam(2, 8, Uncertain(1.39, longest=5)), max_new_tokens=12, seed=0)
    assert {node.tokens for node in found.trace.nodes if not node.finish} == {5}
    (found,) = search(words, "b", LENGTH, chunk_beam(2, 8, Uncertain(1.38, shortest=2)), max_new_tokens=12, seed=0)
    told = {node.text for node in found.trace.nodes if not node.finish}
    assert {"a c b", "c b", "d b", "b b"} <= told <= {"a c b", "c b", "d b", *(f"b {chunk}" for chunk in chunks)}


def test_lines_and_sentences_of_pieces_of_words():
    vocabulary = Vocabulary.of_pieces(["It", "is.", "No?", "3.14", "yes"])
    table = Table(vocabulary, (((), (0.2,) * 5),), "text")
    (found,) = search(table, "It", LENGTH, chunk_beam(2, 8, sentences()), max_new_tokens=8, seed=0)
    for node in found.trace.nodes:
        assert node.finish or (node.text.split()[-1] in {"is.", "No?", "3.14"})
        assert not {"is.", "No?", "3.14"} & set(node.text.split()[:-1])
    assert lines(9) == Texts(("\n",), 9)


# -- nothing is wasted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", [Texts(("t0", "t3")), Uncertain(1.4)], ids=["texts", "uncertain"])
def test_waiting_rows_are_not_stepped(monkeypatch, boundary):
    picked, fed = [], []
    pick, feed = Stepper.pick, Stepper.feed

    def counting_pick(self, running):
        picked.append(len(running))
        return pick(self, running)

    def counting_feed(self, running, tokens):
        fed.append(len(running))
        return feed(self, running, tokens)

    monkeypatch.setattr(Stepper, "pick", counting_pick)
    monkeypatch.setattr(Stepper, "feed", counting_feed)
    found = search(BASE, PROMPTS, VALUE, chunk_beam(2, 3, boundary), max_new_tokens=12, seed=5)
    nodes = [node for each in found for node in each.trace.nodes]
    assert sum(picked) == sum(node.tokens for node in nodes)
    # A chunk's last token is fed where the chunk goes on, once for all branches, or where entropy is looked at.
    last = sum(node.finish is None and (boundary.ahead or node.kept > 0) for node in nodes)
    assert sum(fed) == sum(node.tokens - 1 for node in nodes) + last


# -- values read ragged chunks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", BOUNDARIES, ids=str)
@pytest.mark.parametrize("policy", [BASE, GUIDED], ids=["read", "heard"])
def test_scores_are_those_of_whole_answers(policy, boundary):
    for keep in (chunk_beam().keep, Resample()):
        for each in search(policy, PROMPTS, VALUE, Shape(3, 2, boundary, keep), max_new_tokens=10, seed=4):
            for answer, score in each.hypotheses:
                assert score == pytest.approx(log_ratio(answer.prompt, answer.token_ids), abs=1e-4)


@pytest.mark.parametrize("boundary", [Texts(("t1", "t2", "t3")), Uncertain(1.5)], ids=["texts", "uncertain"])
def test_values_of_transformers_read_ragged_chunks(boundary):
    base, head = tiny_lm(), tiny_lm(seed=5, name="value")
    tuned = with_lora(base)
    shape = chunk_beam(3, 2, boundary)
    for each in search(base, ["t1 t2", "t4"], PrefixValue(head), shape, max_new_tokens=9, seed=0):
        for answer, score in each.hypotheses:
            assert score == pytest.approx(last_logit(head, answer), abs=1e-3)
    for policy in (base, base * (tuned / base) ** 0.5):
        for each in search(policy, ["t1 t2", "t4"], LogRatio(tuned, base), shape, max_new_tokens=9, seed=0):
            for answer, score in each.hypotheses:
                assert score == pytest.approx(log_ratio(answer.prompt, answer.token_ids, tuned, base), abs=1e-3)


def test_a_value_with_learned_positions_reads_up_to_the_end_of_its_context():
    """A short chunk at the end of the context is read with fillers, as wide as the longest chunk of another row."""
    words = [f"t{i}" for i in range(6)]
    config = GPT2Config(vocab_size=6, n_positions=14, n_embd=16, n_layer=1, n_head=2, eos_token_id=5, bos_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        head = LM.of(GPT2LMHeadModel(config), Vocabulary.of_pieces(words, end="t5"), name="value")
    prompts = ["t1 t2 t3 t4", "t1"]
    shape = chunk_beam(2, 3, Texts(("t0", "t2"), longest=10))
    for seed in range(4):
        found = search(BASE, prompts, PrefixValue(head), shape, max_new_tokens=10, min_new_tokens=10, seed=seed)
        for answer, score in found[0].hypotheses:
            assert score == pytest.approx(last_logit(head, answer), abs=1e-4)


def last_logit(head, answer):
    """Value an answer from scratch."""
    stream = [*head.vocabulary.encode(answer.prompt), *answer.token_ids]
    with torch.no_grad():
        return float(head.trunk.model(input_ids=torch.tensor([stream])).logits[0, -2, stream[-1]])


# -- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tokens(0), "count=0"),
        (lambda: Texts(()), "at least one character"),
        (lambda: Texts(("\n", "")), "at least one character"),
        (lambda: Texts("\n"), "a tuple of texts"),
        (lambda: Texts(("\n",), longest=0), "longest=0"),
        (lambda: Uncertain(0.0), "a number above 0"),
        (lambda: Uncertain(-1.0), "a number above 0"),
        (lambda: Uncertain(math.nan), "a number above 0"),
        (lambda: Uncertain(math.inf), "a number above 0"),
        (lambda: Uncertain(shortest=0), "1 <= shortest <= longest"),
        (lambda: Uncertain(shortest=9, longest=8), "1 <= shortest <= longest"),
        (lambda: Shape(chunk="line"), "a number of tokens, a boundary, or None"),
        (lambda: Shape(chunk=0), "chunk=0"),
        (lambda: read_boundary("paragraph"), "line, sentence, or entropy:NATS"),
        (lambda: read_boundary("entropy:high"), "entropy:NATS"),
        (lambda: read_boundary("entropy:-1"), "a number above 0"),
        (lambda: read_boundary(""), "line, sentence"),
    ],
)
def test_boundaries_that_make_no_sense(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_boundaries_are_read_from_words():
    assert [read_boundary(text) for text in ("12", "line", "sentence", "entropy:3")] == [
        12,
        lines(),
        sentences(),
        Uncertain(3.0),
    ]


def test_an_answer_that_cannot_be_scored_is_left_out_of_ragged_chunks():
    def fussy(completions, **_):
        if any("t4" in text for text in completions):
            raise ValueError("not t4")
        return [float(len(text)) for text in completions]

    shape = chunk_beam(2, 4, Texts(("t0", "t1")))
    with pytest.warns(UserWarning, match="goes on without it"):
        found = search(BASE, PROMPTS, RewardValue(fussy), shape, max_new_tokens=9, seed=0)
    for each in found:
        assert each.hypotheses and all("t4" not in answer.text for answer, _ in each.hypotheses)
    assert any(math.isnan(node.score) and node.tokens for each in found for node in each.trace.nodes)

    def broken(completions, **_):
        raise ValueError("never")

    with pytest.warns(UserWarning), pytest.raises(RewardError, match="never"):
        search(BASE, "t1", RewardValue(broken), shape, max_new_tokens=9, seed=0)


@pytest.mark.parametrize("boundary", [Texts(("t0",)), Uncertain(0.5)], ids=["texts", "uncertain"])
def test_rows_that_break_leave_the_others_alone(boundary):
    """After t1 nothing is a distribution: rows with a t1 break, and what goes on are those without."""
    third = {"t0": 1 / 3, "t1": 1 / 3, "t2": 1 / 3}
    rotten = Table.of({"": third, "t1": dict.fromkeys(third, math.nan)}, name="rotten")
    (found,) = search(rotten, "t0", LENGTH, chunk_beam(4, 8, boundary), max_new_tokens=4, seed=0)
    assert found.hypotheses and all("t1" not in answer.text.split()[:-1] for answer, _ in found.hypotheses)
    assert any(node.finish == "error" for node in found.trace.nodes)
    with pytest.raises(PolicyError, match="rotten"):
        search(rotten, "t1", LENGTH, chunk_beam(4, 8, boundary), max_new_tokens=4, seed=0)
