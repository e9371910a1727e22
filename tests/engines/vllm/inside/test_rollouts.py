"""Training with answers from vLLM, on tiny models in float32: its weights are the trainee's, at every step."""

import json
import random
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from trimtab.decoding.pool import decode
from trimtab.decoding.request import Request, Settings
from trimtab.decoding.sampling import Sampling
from trimtab.engines.base import drain
from trimtab.engines.vllm.engine import VLLMEngine
from trimtab.engines.vllm.push import EXTENSION, lay_out_loaded, weights_of
from trimtab.errors import ConfigError, RunError, UsageError
from trimtab.training import on_vllm
from trimtab.training.config import TrainConfig
from trimtab.training.log import read_metrics
from trimtab.training.trainee import Trainee
from trimtab.training.trainer import train

GREEDY = Settings(Sampling(temperature=0), max_new_tokens=12)
SHAPES = {
    "anchored": {"form": "anchored", "strength": 0.7},
    "anchored, at 1": {"form": "anchored"},
    "raw, q and v alone": {"form": "raw", "adapter": {"rank": 4, "targets": ["q_proj", "v_proj"]}},
    "another model under it": {"form": "anchored", "adapter": {"rank": 4, "base": "guide"}},
    "full": {"form": "anchored", "strength": 0.6, "adapter": {"kind": "full", "base": "guide"}},
    "full, tied": {"form": "raw", "adapter": {"kind": "full", "base": "tied"}},
}


@pytest.fixture
def settings(models_folder, vllm_arguments, tmp_path, monkeypatch):
    """Return settings of a short run: reward = share of the words w0 ... w99."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "short_words.py").write_text(
        "def share(prompts, completions, **columns):\n"
        "    words = [text.split() for text in completions]\n"
        "    return [sum(len(word) < 4 for word in each) / max(1, len(each)) for each in words]\n"
    )
    lines = [json.dumps({"prompt": " ".join(f"w{(i * 7 + j) % 190}" for j in range(40))}) + "\n" for i in range(6)]
    (tmp_path / "prompts.jsonl").write_text("".join(lines))
    return {
        "base": str(models_folder / "base"),
        "adapter": {"rank": 4, "alpha": 8},
        "prompts": {"source": str(tmp_path / "prompts.jsonl")},
        "reward": "short_words:share",
        "algorithm": {"name": "grpo", "prompts": 4, "answers": 4},
        "rollout": {"max_new_tokens": 8, "min_new_tokens": 2},
        "rollout_engine": "vllm",
        "vllm": {name: value for name, value in vllm_arguments.items() if name not in ("dtype", "max_model_len")},
        "steps": 4,
        "learning_rate": 0.01,
        "checkpoint_every": 2,
        "dtype": "float32",
        "output": str(tmp_path / "run"),
    }


@pytest.fixture
def shaped(settings, models_folder, tmp_path):
    """Return a function that builds a trainee of a shape."""

    def build(shape):
        changed = dict(SHAPES[shape])
        if under := changed.get("adapter", {}).get("base"):
            folder = tied(models_folder, tmp_path) if under == "tied" else models_folder / under
            changed["adapter"] = {**changed["adapter"], "base": str(folder)}
        return Trainee.build(TrainConfig.of({**settings, **changed}))

    return build


@pytest.fixture
def sampler(started):
    """Return a function that starts an engine for a trainee's policy, and says where its guide is."""

    def start(trainee, **arguments):
        layout, leaves = lay_out_loaded(trainee.policy(), torch.float32)
        return started(layout, **({"worker_extension_cls": EXTENSION} | arguments)), leaves.index(trainee.guide)

    return start


def tied(models_folder, room):
    """Write a model whose output layer is its embeddings."""
    shutil.copytree(models_folder / "guide", room / "tied")
    config = LlamaConfig.from_pretrained(room / "tied")
    config.tie_word_embeddings = True
    (room / "tied" / "model.safetensors").unlink()
    torch.manual_seed(6)
    LlamaForCausalLM(config).save_pretrained(room / "tied")
    return room / "tied"


def move(trainee, seed):
    """Move what is trained by a step of one size, as an optimiser would."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainee.parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.05)


def requests():
    draw = random.Random(0)
    shared = tuple(draw.randrange(2, 200) for _ in range(64))
    return [Request(shared + tuple(draw.randrange(2, 200) for _ in range(draw.randint(1, 9)))) for _ in range(6)]


def greedy(engine):
    """Return the tokens and log-probs of greedy answers."""
    answers = [update.answer for (update,) in drain(engine, [(request, GREEDY) for request in requests()])]
    return [(answer.token_ids, answer.log_probs) for answer in answers]


def same(engine, trainee):
    """Say whether greedy answers are the trainee's, with its log-probs."""
    rows = decode(trainee.policy(), requests(), GREEDY, metered=False)
    return all(
        tokens == tuple(row.tokens) and log_probs == pytest.approx(row.log_probs, abs=1e-4)
        for (tokens, log_probs), row in zip(greedy(engine), rows, strict=True)
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_that_were_pushed_give_the_trainees_answers(shaped, sampler, shape):
    trainee = shaped(shape)
    engine, place = sampler(trainee)
    assert same(engine, trainee)  # untrained, nothing has to be sent
    for step in range(3):
        move(trainee, step)
        assert not same(engine, trainee)
        engine.push(place, weights_of(trainee.guide, torch.float32))
        assert same(engine, trainee)


def test_keys_and_values_of_old_weights_are_not_used(shaped, sampler, monkeypatch):
    """All prompts share two blocks, which the cache has from before; with the reset taken out they are used."""
    trainee = shaped("anchored")
    engine, place = sampler(trainee)
    greedy(engine)
    move(trainee, 0)
    with monkeypatch.context() as without:
        without.setattr(engine.engine, "reset_prefix_cache", lambda: True)
        engine.push(place, weights_of(trainee.guide, torch.float32))
        assert not same(engine, trainee)
    engine.push(place, weights_of(trainee.guide, torch.float32))
    assert same(engine, trainee)
    with monkeypatch.context() as without:
        without.setattr(engine.engine, "reset_prefix_cache", lambda: False)
        with pytest.raises(RunError, match="keeps keys and values"):
            engine.push(place, weights_of(trainee.guide, torch.float32))


def test_weights_are_pushed_into_another_process(shaped, sampler, monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    trainee = shaped("anchored")
    engine, place = sampler(trainee)
    move(trainee, 0)
    assert not same(engine, trainee)
    engine.push(place, weights_of(trainee.guide, torch.float32))
    assert same(engine, trainee)


def test_weights_are_refused_where_they_would_not_be_used(shaped, sampler):
    trainee = shaped("anchored")
    engine, place = sampler(trainee)
    weights = weights_of(trainee.guide, torch.float32)
    engine.submit(requests()[0], GREEDY)
    with pytest.raises(UsageError, match="busy"):
        engine.push(place, weights)
    engine.close()
    engine, place = sampler(trainee, worker_extension_cls="")
    with pytest.raises(ConfigError, match="worker_extension_cls"):
        engine.push(place, weights)


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_training_raises_the_reward_with_answers_that_are_the_trainees(settings, algorithm):
    told = {"name": algorithm, "prompts": 4, "answers": 4, **({"epochs": 2} if algorithm == "ppo" else {})}
    result = train(TrainConfig.of({**settings, "algorithm": told, "steps": 25, "checkpoint_every": 100}))
    metrics = read_metrics(result.run)
    rewards = [each["reward"] for each in metrics]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 0.5
    assert max(each["mismatch"] for each in metrics) < 1e-4
    assert all(0 < each["push_seconds"] < each["sampling_seconds"] for each in metrics)


def test_a_run_resumed_after_ctrl_c_ends_equal_to_an_uninterrupted_one(settings, tmp_path):
    def interrupt(metrics):
        if metrics["step"] == 3:
            signal.raise_signal(signal.SIGINT)

    whole = train(TrainConfig.of(settings))
    cut = {**settings, "output": str(tmp_path / "cut")}
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig.of(cut), on_step=interrupt)
    resumed = train(TrainConfig.of(cut), resume=True)
    assert resumed.resumed_from == 3
    one, two = (load_file(each.guide / "adapter_model.safetensors") for each in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_weights_of_another_policy_stop_the_run_and_the_engine(settings, monkeypatch):
    """From the third step on vLLM is sent what the trainee never was."""
    pushed, closed, whole_close = [], [], VLLMEngine.close

    def wrong(lm, dtype):
        pushed.append(lm)
        weights = weights_of(lm, dtype)
        return weights if len(pushed) < 3 else {name: each.flip(0) for name, each in weights.items()}

    def close(engine):
        closed.append(engine)
        whole_close(engine)

    monkeypatch.setattr(on_vllm, "weights_of", wrong)
    monkeypatch.setattr(VLLMEngine, "close", close)
    with pytest.raises(RunError, match="not those of the trainee"):
        train(TrainConfig.of({**settings, "checkpoint_every": 100}))
    assert len(closed) == 1
    assert len(read_metrics(TrainConfig.of(settings).output)) == 2
    monkeypatch.setattr(on_vllm, "weights_of", weights_of)
    assert train(TrainConfig.of({**settings, "checkpoint_every": 100}), resume=True).resumed_from == 2
