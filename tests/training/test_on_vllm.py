"""What training with answers from vLLM does without vLLM: refusals before models are loaded, and the two log-probs."""

import json

import pytest
import torch

from trimtab.decoding.answer import Answer
from trimtab.decoding.request import Request, Settings
from trimtab.engines.base import Update
from trimtab.engines.vllm import serve
from trimtab.engines.vllm.push import lay_out_loaded, weights_of
from trimtab.errors import ConfigError, RunError
from trimtab.policies.lm import LM
from trimtab.training import on_vllm
from trimtab.training.config import TrainConfig
from trimtab.training.on_vllm import VLLMRollouts, check_mismatch, check_rollouts, log_probs_of
from trimtab.training.rollouts import Block
from trimtab.training.trainee import Trainee
from trimtab.training.trainer import train

QUARK = {"name": "quark"}
MASKED = {"name": "grpo", "mask": {"top_p": 0.9}}


@pytest.fixture
def settings(tiny_lm_folder, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "w1 w2"}) + "\n")
    return {
        "base": str(tiny_lm_folder),
        "adapter": {"rank": 4, "alpha": 8},
        "prompts": {"source": str(prompts)},
        "dtype": "float32",
        "rollout_engine": "vllm",
        "output": str(tmp_path / "run"),
    }


@pytest.fixture
def moved(settings):
    """Return a function that builds a trainee whose adapter does something."""

    def build(**changed):
        trainee = Trainee.build(TrainConfig.of({**settings, **changed}))
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in trainee.parameters.values():
                parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.3)
        return trainee

    return build


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"algorithm": QUARK}, "quark"),
        ({"algorithm": MASKED}, "mask"),
        ({"base_top_k": 5}, "base_top_k"),
        ({"rollout": {"constrained": 0.5}}, "constrained"),
    ],
)
def test_what_vllm_cannot_sample_is_refused_before_anything_is_loaded(settings, monkeypatch, changed, reason):
    monkeypatch.setattr(on_vllm, "require_vllm", lambda: None)
    monkeypatch.setattr(LM, "load", None)
    with pytest.raises(ConfigError, match=reason) as refused:
        train(TrainConfig.of({**settings, **changed}))
    assert "rollout_engine" in refused.value.hint


def test_several_processes_a_lack_of_vllm_and_arguments_without_it_are_refused(settings, monkeypatch):
    config = TrainConfig.of(settings)
    with pytest.raises(ConfigError, match="2 training processes"):
        check_rollouts(config, 2)
    with pytest.raises(ConfigError, match="rollout_engine: vllm"):
        TrainConfig.of({**settings, "rollout_engine": "local", "vllm": {"max_num_seqs": 4}})
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="no vLLM"):
        train(config)
    assert not config.output.exists()


def test_log_probs_are_bit_for_bit_those_of_the_loss(moved):
    trainee = moved()
    texts = [((2, 3), (4, 5, 6)), ((2, 3), (7, 8)), ((9,), (4, 1))]
    found = log_probs_of(trainee, texts, rows=2)
    assert not any(parameter.requires_grad for parameter in trainee.parameters.values())
    trainee.require_grad(True)
    for few, told in ((texts[:2], found[:2]), (texts[2:], found[2:])):
        block = Block.of([answer for _, answer in few])
        reading = trainee.read([prompt for prompt, _ in few], block, (None,) * len(few))
        chosen = reading.chosen(reading.log_probs)
        assert chosen.requires_grad
        assert [row[: len(answer)] for row, (_, answer) in zip(chosen.tolist(), few, strict=True)] == told


def test_a_pass_that_raises_leaves_no_gradients_on(moved, monkeypatch):
    def failing(policy, texts):
        raise ZeroDivisionError

    trainee = moved()
    trainee.require_grad(False)
    monkeypatch.setattr(on_vllm, "_chosen", failing)
    with pytest.raises(ZeroDivisionError):
        log_probs_of(trainee, [((2, 3), (4,))], rows=2)
    assert not any(parameter.requires_grad for parameter in trainee.parameters.values())


def test_an_answer_that_vllm_broke_stops_the_run(moved, settings, monkeypatch):
    class Breaking:
        """An engine whose only answer breaks."""

        def __init__(self, layout, arguments):
            self.asked = []

        def push(self, number, tensors):
            pass

        def submit(self, request, settings):
            self.asked.append(request)
            return 0

        def step(self):
            return [Update(0, 0, "", Answer("", "", (4,), (-1.0,), (), (), "error"), error)]

        def cancel(self, ticket):
            pass

    error = RunError("an answer that broke", "b", "c")
    monkeypatch.setattr(on_vllm, "VLLMEngine", Breaking)
    trainee = moved()
    rollouts = VLLMRollouts(trainee, TrainConfig.of(settings), 8)
    with pytest.raises(RunError, match="an answer that broke"):
        rollouts(trainee.policy(), [Request((2, 3))], Settings())
    assert rollouts.latest is None


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "down_proj"]])
def test_weights_are_merged_and_whole_parents_are_sent(moved, settings, targets):
    trainee = moved(adapter={"rank": 4, "alpha": 8, "targets": targets})
    sent = weights_of(trainee.guide, torch.float32)
    parts = {name.split("layers.")[1].split(".", 1)[1].removesuffix(".weight") for name in sent}
    attention, mlp = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
    assert parts == {*(f"self_attn.{name}" for name in attention), *(f"mlp.{name}" for name in mlp)}
    plain = LM.load(settings["base"], dtype="float32").trunk
    merged = trainee.guide.trunk.model
    with torch.no_grad():
        fresh = type(merged)(merged.config)
        own = {name.replace(".base_layer.", "."): each for name, each in plain.model.state_dict().items()}
        fresh.load_state_dict({name: each for name, each in own.items() if "lora_" not in name} | sent)
        logits = fresh(torch.tensor([[2, 3, 4]])).logits[0, -1].log_softmax(-1)
    prompt = trainee.guide.vocabulary.decode([2, 3, 4])
    torch.testing.assert_close(logits, trainee.guide.next_log_probs([prompt])[0], atol=1e-5, rtol=0)


def test_a_strength_of_1_leaves_one_model_and_others_their_exponents(moved):
    plain, strong = moved(), moved(strength=0.7)
    layout, leaves = lay_out_loaded(plain.policy(), torch.float32)
    assert leaves == (plain.guide,) and layout.plan.weights({}) == (1.0,) and layout.dtype == "float32"
    layout, leaves = lay_out_loaded(strong.policy(), torch.float32)
    assert leaves == (strong.base, strong.guide) and layout.plan.weights({}) == pytest.approx((0.3, 0.7))
    with pytest.raises(ConfigError, match="product of LMs"):
        lay_out_loaded(strong.base.with_prompt("w1"), torch.float32)


def test_a_mismatch_stops_a_run_even_where_it_is_no_number():
    check_mismatch(0.49)
    for mismatch in (0.51, float("inf"), float("nan")):
        with pytest.raises(RunError, match="in vLLM"):
            check_mismatch(mismatch)
