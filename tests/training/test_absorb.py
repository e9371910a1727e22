"""Guides that need a stream of their own as plain adapters: what is learned, measured, written, resumed, refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from trimtab.cli.main import app
from trimtab.cli.trained import rewards_of
from trimtab.engines import VLLM, explain
from trimtab.errors import ConfigError, ModelError, PromptError, UsageError
from trimtab.policies.lm import LM
from trimtab.policies.policy_file import read_policy_file, write_policy_file
from trimtab.training.absorb import train_absorb
from trimtab.training.conditioned import Conditioned
from trimtab.training.config import TrainConfig
from trimtab.training.guide import write_adapter
from trimtab.training.small_settings import AbsorbSettings
from trimtab.training.trainer import train

PROMPTS = [f"w{i} w{j}" for i in range(10) for j in (3, 7)]
HELD = PROMPTS[-2:]  # a tenth
REWARD = {"name": "length", "target": 4}


def load(source):
    return LM.load(source, dtype="float32")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    path.write_text("\n".join(PROMPTS))
    return {"source": str(path)}


@pytest.fixture(scope="module")
def toy(tiny_lm_folder, prompts, tmp_path_factory):
    """Return the run folder of a guide whose control token does nothing but add a constant vector in the first layer.

    All embeddings have 1 in dimension 0 and, but for the control's, 0 in dimension 1. Queries read the one, keys and
    values the other, so that attention goes to the control wholly, and without it finds only zeros. The second layer's
    attention gives nothing. An adapter can add that vector to the values by reading dimension 0.
    """
    base = shutil.copytree(tiny_lm_folder, tmp_path_factory.mktemp("toy") / "base")
    weights = load_file(base / "model.safetensors")
    first, second = (f"model.layers.{i}.self_attn." for i in range(2))
    embedded = weights["model.embed_tokens.weight"]
    embedded[:, 0], embedded[:, 1] = 1.0, 0.0
    value = weights[first + "v_proj.weight"][:, 1].clone()
    for name in ("q_proj", "k_proj", "v_proj"):
        weights[f"{first}{name}.weight"].zero_()
    weights[second + "v_proj.weight"].zero_()
    weights[first + "v_proj.weight"][:, 1] = value
    weights[first + "q_proj.weight"][3::8, 0] = 5.0  # channel 3 of 8 is turned by a thousandth a place
    weights[first + "k_proj.weight"][3::8, 1] = 5.0
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})

    run = tmp_path_factory.mktemp("toy-run")
    (run / "guide").mkdir()
    lm = load(base)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm.trunk.add_adapter("toy", LoraConfig(r=2, target_modules=["v_proj"], task_type="CAUSAL_LM"))
    write_adapter(run / "guide", replace(lm, adapter="toy"))
    control = torch.zeros(2, 32)
    control[0, 1] = 3.0
    save_file({"control.weight": control}, run / "guide" / "control.safetensors")
    (run / "guide" / "trimtab.json").write_text(json.dumps({"trained": {"reward": REWARD, "prompts": prompts}}))
    models = {"base": str(base), "guide": "guide"}
    policy_file(run / "policy.yaml", models, "base * (guide / base)^strength", knobs={"strength": {"default": 0.8}})
    return run


@pytest.fixture
def common(toy, prompts, tmp_path):
    return {
        "policy": str(toy / "policy.yaml"),
        "dtype": "float32",
        "device": "cpu",
        "prompts": prompts,
        "n": 6,
        "rollout": {"max_new_tokens": 8, "min_new_tokens": 0},
        "rows": 12,
        "micro_rows": 6,
        "learning_rate": 0.01,
        "epochs": 6,
        "output": str(tmp_path / "run"),
    }


@pytest.fixture
def base(common):
    return read_policy_file(common["policy"]).models["base"].source


@pytest.fixture
def guide(common):
    return read_policy_file(common["policy"]).models["guide"].source


def policy_file(path, models, policy, **more):
    path.write_text(yaml.safe_dump({"models": models, "policy": policy, **more}))
    return str(path)


def answers(policy, settings):
    """What a policy answers to the held-out prompts."""
    return policy.generate(HELD, n=settings.n, seed=settings.seed, max_new_tokens=settings.rollout.max_new_tokens)


def kl_by_hand(guide, other, written):
    """KL(guide || other) over answers, one prefix after the other: the slow and obvious twin."""
    found = []
    for answer in written:
        prompt = guide.vocabulary.encode(answer.prompt)
        for place in range(len(answer.token_ids)):
            prefix = [[*prompt, *answer.token_ids[:place]]]
            p, q = (each.init(prefix)[0][0] for each in (guide, other))
            found.append(float((p.exp() * (p - q)).sum()))
    return sum(found) / len(found)


def test_a_control_token_is_absorbed_and_the_policy_then_runs_where_streams_are_shared(common, guide):
    assert explain(read_policy_file(common["policy"]), VLLM).worst.what == "control token of guide"
    settings = AbsorbSettings.of({**common, "epochs": 10})
    outcome = train_absorb(settings)
    assert outcome.numbers["kl_before"] > 0.3 and outcome.numbers["kl_after"] < 0.01

    file = read_policy_file(outcome.run / "policy.yaml")
    assert file.policy == read_policy_file(common["policy"]).policy and file.knobs
    assert file.models["guide"].source == str(outcome.folder.resolve())
    assert explain(file, VLLM).verdict == "exact"
    guide, absorbed = load(guide), load(outcome.folder)
    assert absorbed.view.control is None and absorbed.trunk is guide.trunk
    assert not (outcome.folder / "control.safetensors").exists()
    before = answers(read_policy_file(common["policy"]).build(load), settings)
    with torch.no_grad():
        without = LM(guide.trunk, guide.adapter)  # the token dropped, which is where training starts
        assert outcome.numbers["kl_before"] == pytest.approx(kl_by_hand(guide, without, before), rel=1e-3)
        assert outcome.numbers["kl_after"] == pytest.approx(kl_by_hand(guide, absorbed, before), rel=1e-2)


def test_the_loss_of_reward_is_that_of_the_same_prompts_and_random_numbers(common):
    settings = AbsorbSettings.of({**common, "epochs": 1, "holdout": 0.5, "learning_rate": 0.05})
    outcome = train_absorb(settings)
    means = []
    for path in (common["policy"], outcome.run / "policy.yaml"):
        written = (
            read_policy_file(path)
            .build(load)
            .generate(PROMPTS[10:], n=settings.n, seed=settings.seed, max_new_tokens=8)
        )
        scores = [1 - min(1, abs(len(each.text.split()) - 4) / 4) for each in written]
        means.append(np.array(scores).reshape(10, settings.n).mean(1))
    numbers, lost = outcome.numbers, means[0] - means[1]
    assert numbers["reward_before"] == pytest.approx(means[0].mean())
    assert numbers["reward_after"] == pytest.approx(means[1].mean())
    assert numbers["reward_loss"] == pytest.approx(lost.mean()) and lost.any()
    spread = 1.96 * lost.std() / 10**0.5  # the bootstrap of a mean is about normal
    assert numbers["reward_loss_low"] == pytest.approx(lost.mean() - spread, abs=0.25 * spread)
    assert numbers["reward_loss_high"] == pytest.approx(lost.mean() + spread, abs=0.25 * spread)


def test_a_view_of_a_plain_model_is_absorbed_from_zero(common, tiny_lm_folder, tmp_path):
    models = {"base": str(tiny_lm_folder), "told": {"source": str(tiny_lm_folder), "prompt": "w5 w9 w2"}}
    policy = policy_file(tmp_path / "told.yaml", models, "base * (told / base)^0.5", decoding={"temperature": 0.7})
    config = {**common, "policy": policy, "adapter": {"rank": 4}, "reward": REWARD}
    settings = AbsorbSettings.of(config)
    outcome = train_absorb(settings)
    assert outcome.numbers["kl_after"] < 0.8 * outcome.numbers["kl_before"]
    base, told = load(tiny_lm_folder), load(tiny_lm_folder).with_prompt("w5 w9 w2")
    with torch.no_grad():
        before = answers(read_policy_file(policy).build(load), settings)
        assert outcome.numbers["kl_before"] == pytest.approx(kl_by_hand(told, base, before), rel=1e-3)
    file = read_policy_file(outcome.run / "policy.yaml")
    assert file.models["told"].prompt is None and file.decoding.temperature == 0.7
    assert explain(file, VLLM).verdict == "exact"
    assert torch.equal(base.next_log_probs(["w1"]), load(tiny_lm_folder).next_log_probs(["w1"]))
    assert load(outcome.folder).trunk.adapter_config(load(outcome.folder).adapter).r == 4


def test_what_all_others_see_the_adapter_sees_too(common, base, guide, tmp_path):
    seen = {"prompt": "w5 w9"}
    models = {"base": {"source": base, **seen}, "guide": guide}
    policy = policy_file(tmp_path / "seen.yaml", models, "base * guide")
    outcome = train_absorb(AbsorbSettings.of({**common, "policy": policy, "guide": "guide"}))
    file = read_policy_file(outcome.run / "policy.yaml")
    assert file.models["guide"].prompt == "w5 w9" and explain(file, VLLM).verdict == "exact"
    assert outcome.numbers["kl_after"] < 0.3 * outcome.numbers["kl_before"]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_guides_that_quark_has_trained_are_absorbed(common, tiny_lm_folder, prompts, tmp_path, kind):
    """A whole model, too: the adapter then sits on that model."""
    config = {
        "base": str(tiny_lm_folder),
        "adapter": {"kind": kind, "rank": 4, **({} if kind == "lora" else {"base": str(tiny_lm_folder)})},
        "prompts": prompts,
        "reward": REWARD,
        "algorithm": {"name": "quark", "quantiles": 3, "explore_every": 2, "explore_prompts": 8, "rows": 8},
        "rollout": {"max_new_tokens": 6},
        "steps": 2,
        "dtype": "float32",
        "output": str(tmp_path / "quark"),
    }
    run = train(TrainConfig.of(config)).run
    outcome = train_absorb(AbsorbSettings.of({**common, "policy": str(run / "policy.yaml"), "epochs": 2}))
    assert outcome.numbers["kl_after"] < outcome.numbers["kl_before"]
    absorbed = load(outcome.folder)
    assert absorbed.view.control is None
    assert absorbed.trunk is load(run / "guide").trunk
    assert explain(read_policy_file(outcome.run / "policy.yaml"), VLLM).verdict == "exact"


def test_what_the_guide_was_trained_on_the_adapter_was_too(common, guide):
    outcome = train_absorb(AbsorbSettings.of({**common, "epochs": 1, "reward": "repetition"}))
    about = json.loads((outcome.folder / "trimtab.json").read_text())
    assert about["kind"] == "adapter" and about["measured"] == outcome.numbers
    assert about["scored_by"].startswith("repetition")
    assert about["absorbed"]["source"] == guide
    assert rewards_of([str(outcome.folder)]) == [REWARD]


def test_a_resumed_adapter_is_that_of_an_uninterrupted_run(common, guide, tmp_path):
    whole = train_absorb(AbsorbSettings.of({**common, "checkpoint_every": 2, "epochs": 1}))

    def interrupt(metrics):
        if metrics["step"] == 5:
            raise RuntimeError

    cut = AbsorbSettings.of({**common, "checkpoint_every": 2, "epochs": 1, "output": str(tmp_path / "cut")})
    with pytest.raises(RuntimeError):
        train_absorb(cut, on_step=interrupt)
    assert not any(each.requires_grad for each in load(guide).trunk.model.parameters())
    with pytest.raises(ConfigError, match="not empty"):
        train_absorb(cut)
    with pytest.raises(ConfigError, match="another learning_rate"):
        train_absorb(cut.model_copy(update={"learning_rate": 1.0}), resume=True)
    resumed = train_absorb(cut, resume=True)
    assert resumed.numbers == whole.numbers
    a, b = (load(each.folder).next_log_probs(["w1 w2", "w5"]) for each in (whole, resumed))
    assert torch.equal(a, b)
    assert train_absorb(cut, overwrite=True).numbers == whole.numbers


def test_the_command_line_says_what_was_lost(common, tmp_path):
    config = tmp_path / "absorb.yaml"
    config.write_text(yaml.safe_dump({**common, "epochs": 1}))
    result = CliRunner().invoke(app, ["train", "absorb", str(config), "--set", "n=2"])
    assert result.exit_code == 0, result.output
    for what in ("kl before", "kl after", "reward before", "reward after", "reward loss", "reward loss low"):
        assert what in " ".join(result.output.split())


def test_the_example_can_be_read():
    settings = AbsorbSettings.read(Path(__file__).parents[2] / "examples" / "absorb.yaml")
    assert str(settings.policy) == "runs/quark/policy.yaml" and settings.reward is None


@pytest.mark.parametrize(
    ("models", "policy", "wanted", "says"),
    [
        ({"base": "B", "other": "B"}, "base * other", None, "no LM needs"),
        ({"base": {"source": "B", "prompt": "w1"}}, "base", None, "no LM needs"),  # a part of the prompt
        ({"base": "B", "guide": "G", "told": {"source": "B", "prompt": "w1"}}, "base * guide * told", None, "several"),
        ({"base": "B", "guide": "G"}, "base * guide", "base", "guide='base'"),
        ({"base": "B", "guide": "G"}, "base * guide", "nobody", "guide='nobody'"),
        ({"base": "B", "guide": "G"}, "base * guide / guide", None, "factor by itself"),
        ({"base": "B", "told": {"source": "B", "prompt": "w1"}}, "base * told", None, "no reward"),
        ({"base": "B", "guide": "G"}, "base * gide", None, "gide"),
    ],
)
def test_policies_with_nothing_to_absorb_are_refused(common, base, guide, tmp_path, models, policy, wanted, says):
    places = {"B": base, "G": guide}
    models = {
        name: places[each] if isinstance(each, str) else {**each, "source": places[each["source"]]}
        for name, each in models.items()
    }
    path = policy_file(tmp_path / "policy.yaml", models, policy)
    with pytest.raises(UsageError, match=says):
        train_absorb(AbsorbSettings.of({**common, "policy": path, "guide": wanted}))
    assert not (tmp_path / "run").exists()


def test_one_of_several_is_absorbed_after_the_other(base, guide, tmp_path):
    models = {"base": base, "guide": guide, "told": {"source": base, "prompt": "w1"}}
    path = policy_file(tmp_path / "policy.yaml", models, "base * guide * told")
    assert Conditioned.find(path, "guide").common is None  # base and told see different things
    plain = Conditioned.find(path, "told").replaced("elsewhere")
    assert plain.models["told"].source == "elsewhere" and plain.models["told"].prompt is None
    write_policy_file(path, plain)
    assert Conditioned.find(path).name == "guide"  # the only one that is left


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"adapter": {"kind": "full"}}, "lora"),
        ({"rollout": {"constrained": 0.5}}, "constrained"),
        ({"holdout": 0}, "greater"),
        ({"policy": "runs/absorbed/policy.yaml", "output": "runs/absorbed"}, "not in"),
        ({"base": "smollm2-135m"}, "the settings are"),
        ({"policy": "nowhere.yaml"}, "nowhere.yaml"),
        ({"reward": "nonsense"}, "nonsense"),
    ],
)
def test_wrong_settings_are_refused(common, change, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        train_absorb(AbsorbSettings.of({**common, **change}))
    assert not (tmp_path / "run").exists()


def test_prompts_that_leave_nothing_over_are_refused(common, tmp_path):
    path = tmp_path / "one.txt"
    path.write_text("w1\nw1\n")
    with pytest.raises(ConfigError, match="at least two"):
        train_absorb(AbsorbSettings.of({**common, "prompts": {"source": str(path)}}))
    path.write_text("w1\n" + "w1 " * 60)
    with pytest.raises(PromptError, match="60 tokens"):
        train_absorb(AbsorbSettings.of({**common, "prompts": {"source": str(path)}}))
    with pytest.raises(ModelError, match="chat"):
        train_absorb(AbsorbSettings.of({**common, "prompts": {**common["prompts"], "chat": True}}))
