"""The training loop on a tiny transformer: exact resume, every kind of adapter, both algorithms, what can go wrong."""

import json
import signal

import pytest
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from trimtab.errors import ConfigError, ModelError, RewardError, RunError
from trimtab.policies.lm import LM
from trimtab.policies.policy_file import read_policy_file
from trimtab.training import checkpoint, trainer, update
from trimtab.training.config import RolloutConfig, TrainConfig
from trimtab.training.log import read_metrics
from trimtab.training.ranks import Ranks
from trimtab.training.rollouts import constraints_of
from trimtab.training.trainee import Trainee
from trimtab.training.trainer import train

QUARK = {"name": "quark", "quantiles": 3, "explore_every": 2, "explore_prompts": 6, "rows": 6}
GRPO = {"name": "grpo", "prompts": 3, "answers": 4}
RLOO = {"name": "rloo", "prompts": 3, "answers": 4}
REINFORCE = {"name": "reinforce", "prompts": 6, "answers": 2, "baseline": "running"}
PPO = {"name": "ppo", "prompts": 6, "answers": 2, "rows": 5, "epochs": 2}
MASKED = {**GRPO, "mask": {"top_p": 0.9, "refresh_every": 3}}


@pytest.fixture
def settings(tiny_lm_folder, tmp_path, monkeypatch):
    """Settings of a run that takes a second: reward = share of the word w3 among the words."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy_reward.py").write_text(
        "def share(prompts, completions, **columns):\n"
        "    return [text.split().count('w3') / max(1, len(text.split())) for text in completions]\n"
        "def low(prompts, completions, **columns):\n"
        "    words = [text.split() for text in completions]\n"
        "    return [sum(len(w) == 2 for w in each) / max(1, len(each)) for each in words]\n"
        "def broken(prompts, completions, **columns):\n"
        "    raise ZeroDivisionError('no')\n"
        "def silent(prompts, completions, **columns):\n"
        "    return [None for _ in completions]\n"
    )
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"w{i} w{i + 1}"}) + "\n" for i in range(6)))
    return {
        "base": str(tiny_lm_folder),
        "adapter": {"rank": 4, "alpha": 8},
        "prompts": {"source": str(prompts)},
        "reward": "toy_reward:share",
        "algorithm": GRPO,
        "rollout": {"max_new_tokens": 6, "min_new_tokens": 2},
        "kl": {"coefficient": 0.05, "target": 0.3, "horizon": 32},
        "steps": 4,
        "learning_rate": 0.01,
        "checkpoint_every": 2,
        "dtype": "float32",
        "output": str(tmp_path / "run"),
    }


def weights(run):
    return load_file(run / "guide" / "adapter_model.safetensors")


@pytest.mark.parametrize(
    "algorithm",
    [GRPO, QUARK, RLOO, REINFORCE, PPO, MASKED],
    ids=["grpo", "quark", "rloo", "reinforce", "ppo", "masked"],
)
def test_a_resumed_run_ends_equal_to_an_uninterrupted_one(settings, tmp_path, algorithm):
    settings["algorithm"] = algorithm
    whole = train(TrainConfig.of(settings))
    cut = {**settings, "output": str(tmp_path / "cut")}
    train(TrainConfig.of({**cut, "steps": 2}))
    resumed = train(TrainConfig.of(cut), resume=True)
    assert resumed.resumed_from == 2 and resumed.steps == 4
    a, b = weights(whole.run), weights(resumed.run)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    timeless = [{k: v for k, v in m.items() if "seconds" not in k and k != "steps"} for m in read_metrics(whole.run)]
    assert timeless == [
        {k: v for k, v in m.items() if "seconds" not in k and k != "steps"} for m in read_metrics(resumed.run)
    ]


@pytest.mark.parametrize("form", ["anchored", "raw"])
def test_training_raises_the_reward_and_leaves_the_base_alone(settings, form):
    config = TrainConfig.of({**settings, "form": form, "steps": 40, "kl": {}, "seed": 1})
    base = LM.load(config.base, dtype="float32")
    before = base.next_log_probs(["w1 w2"])
    result = train(config)
    rewards = [m["reward"] for m in read_metrics(result.run)]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 0.5
    assert torch.equal(base.next_log_probs(["w1 w2"]), before)


def test_quark_learns_what_its_control_tokens_mean(settings, tmp_path):
    """Half of the words score; after training the best control token asks for them and the worst for the others."""
    many = tmp_path / "many.txt"
    many.write_text("".join(f"w{i} w{j}\n" for i in range(20) for j in range(10)))
    config = TrainConfig.of(
        {
            **settings,
            "prompts": {"source": str(many)},
            "reward": "toy_reward:low",
            "algorithm": {"name": "quark", "quantiles": 3, "explore_every": 15, "explore_prompts": 100, "rows": 48},
            "kl": {},
            "steps": 120,
            "micro_rows": 48,
            "checkpoint_every": 1000,
        }
    )
    result = train(config)
    base, guide = LM.load(config.base), LM.load(result.guide)
    low = list(range(2, 12))  # the ids of w0 ... w9
    best, plain, worst = (
        lm.next_log_probs(["w1 w2", "w15 w4", "w9 w9"]).exp()[:, low].sum(1).mean().item()
        for lm in (guide, base, guide.with_control(2))
    )
    assert best > plain + 0.1 and best > worst + 0.1


def test_the_anchored_form_starts_at_the_base_exactly(settings):
    trainee = Trainee.build(TrainConfig.of({**settings, "form": "anchored"}))
    prompts = [[1, 2], [3]]
    assert torch.equal(trainee.policy().init(prompts)[0], trainee.base.init(prompts)[0])


def test_the_gradient_flows_into_the_adapter_only(settings):
    config = TrainConfig.of({**settings, "form": "raw"})
    trainee = Trainee.build(config)
    trainee.require_grad(True)
    trainee.policy().init([[1, 2]])[0][0, 3].backward()
    trained = {id(p) for p in trainee.parameters.values()}
    for name, parameter in trainee.base.trunk.model.named_parameters():
        assert (parameter.grad is not None) == (id(parameter) in trained), name
    assert all(p.dtype == torch.float32 for p in trainee.parameters.values())


def test_the_guide_folder_is_loaded_with_its_base_and_gives_what_training_had(settings):
    result = train(TrainConfig.of(settings))
    guide = LM.load(result.guide, dtype="float32")
    base = LM.load(settings["base"], dtype="float32")
    assert guide.trunk is base.trunk  # the trunk in memory is re-used
    kept = load_file(checkpoint.latest_checkpoint(result.run) / "tensors.safetensors")
    loaded = guide.trunk.parameters(guide.adapter)
    assert len(loaded) == len([name for name in kept if name.startswith("parameter/")])
    assert all(torch.equal(tensor, kept[f"parameter/{name}"]) for name, tensor in loaded.items())
    policy = yaml.safe_load((result.run / "policy.yaml").read_text())
    assert policy["policy"] == "base * (guide / base)^strength"
    assert "strength" in (result.guide / "README.md").read_text()


def test_quark_guides_start_from_their_best_control_token(settings):
    result = train(TrainConfig.of({**settings, "algorithm": QUARK}))
    guide = LM.load(result.guide, dtype="float32")
    assert guide.view.control == 0 and guide.trunk.controls[guide.adapter].weight.shape[0] == 3
    best, worst = guide.next_log_probs(["w1"]), guide.with_control(2).next_log_probs(["w1"])
    assert not torch.allclose(best, worst)


def test_an_adapter_on_a_smaller_lm_trained_against_an_approximate_base(settings, smaller_lm_folder):
    small = str(smaller_lm_folder)
    config = TrainConfig.of(
        {**settings, "approximate_base": small, "adapter": {"base": small, "rank": 2}, "form": "anchored"}
    )
    result = train(config)
    base, guide, untrained = (LM.load(p, dtype="float32") for p in (settings["base"], result.guide, small))
    policy = base * (guide / untrained)
    answers = policy.generate(["w1 w2"], max_new_tokens=4, seed=0)
    assert len(answers[0].kl) == len(answers[0].token_ids)


def test_a_full_small_lm_as_adapter(settings, smaller_lm_folder):
    config = TrainConfig.of({**settings, "adapter": {"kind": "full", "base": str(smaller_lm_folder)}, "form": "raw"})
    result = train(config)
    guide = LM.load(result.guide, dtype="float32")
    original = LM.load(smaller_lm_folder, dtype="float32")
    assert guide.adapter is None and guide.trunk is not original.trunk
    assert not torch.equal(guide.next_log_probs(["w1"]), original.next_log_probs(["w1"]))


def test_the_base_itself_may_be_fine_tuned_as_a_copy(settings):
    """With all weights of the base under it, the anchored policy is the tuned model alone: base * tuned / base."""
    adapter = {"kind": "full", "base": settings["base"]}
    result = train(TrainConfig.of({**settings, "adapter": adapter, "steps": 2, "learning_rate": 1e-2}))
    base, tuned = (LM.load(source, dtype="float32") for source in (settings["base"], result.guide))
    assert read_metrics(result.run)[0]["kl"] == pytest.approx(0, abs=1e-6)
    file = read_policy_file(result.run / "policy.yaml")
    policy = file.build(lambda source: LM.load(source, dtype="float32"))
    found, alone, before = (each.next_log_probs(["w1 w2"]) for each in (policy, tuned, base))
    torch.testing.assert_close(found, alone)
    assert not torch.allclose(alone, before, atol=1e-3)


def test_micro_batches_give_the_gradient_of_the_whole_batch(settings, tmp_path):
    big = train(TrainConfig.of({**settings, "steps": 1, "micro_rows": 12}))
    small = train(TrainConfig.of({**settings, "steps": 1, "micro_rows": 5, "output": str(tmp_path / "small")}))
    (a,), (b,) = read_metrics(big.run), read_metrics(small.run)
    assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], rel=1e-4)
    assert a["loss"] == pytest.approx(b["loss"], abs=1e-5)


def test_ctrl_c_finishes_the_step_and_saves_it(settings):
    def interrupt(metrics):
        if metrics["step"] == 3:
            signal.raise_signal(signal.SIGINT)

    config = TrainConfig.of(settings)
    with pytest.raises(KeyboardInterrupt):
        train(config, on_step=interrupt)
    assert checkpoint.latest_checkpoint(config.output).name == "step-000003"
    assert train(config, resume=True).resumed_from == 3


def test_a_failing_reward_keeps_what_was_trained(settings, monkeypatch):
    config = TrainConfig.of(settings)
    real = trainer._step

    def fails_at_step_4(run):
        if run.progress.step == 3:
            raise RewardError(given="a reward that raised", expected="numbers", hint="repair it")
        return real(run)

    monkeypatch.setattr(trainer, "_step", fails_at_step_4)
    with pytest.raises(RewardError):
        train(config)
    assert checkpoint.latest_checkpoint(config.output).name == "step-000003"


@pytest.mark.parametrize("function", ["broken", "silent"])
def test_rewards_that_raise_or_return_none_are_refused(settings, function):
    with pytest.raises(RewardError, match=function):
        train(TrainConfig.of({**settings, "reward": f"toy_reward:{function}"}))


def test_a_full_disk_leaves_the_previous_checkpoint_whole(settings, monkeypatch):
    config = TrainConfig.of(settings)
    real = checkpoint.save_file

    def full_disk(tensors, path):
        if "step-000004" in str(path):
            path.write_bytes(b"half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(RunError, match="step-000002"):
        train(config)
    monkeypatch.undo()
    assert [p.name for p in (config.output / "checkpoints").iterdir()] == ["step-000002"]


def test_processes_that_see_other_checkpoints_do_not_train_together(settings):
    """As on a machine that cannot read the first one's run folder: it would begin at step 0, the first one at 2."""

    class Blind(Ranks):
        def gather(self, value):
            return [value, 0]

    train(TrainConfig.of({**settings, "steps": 2}))
    with pytest.raises(RunError, match=r"\[2, 0\]"):
        trainer._train(TrainConfig.of(settings), Blind(), resume=True, overwrite=False, on_step=None)


def test_a_lone_answer_is_no_baseline_for_itself(settings):
    alone = {**settings, "prompts": {**settings["prompts"], "limit": 1}, "steps": 2, "kl": {}}
    config = TrainConfig.of({**alone, "algorithm": {"name": "reinforce"}})
    with pytest.raises(ConfigError, match="lone answer"):
        train(config)
    assert not config.output.exists()
    train(TrainConfig.of({**alone, "algorithm": {"name": "reinforce", "baseline": "running"}}))


def test_a_run_folder_is_never_overwritten_unasked(settings):
    config = TrainConfig.of({**settings, "steps": 1})
    train(config)
    with pytest.raises(ConfigError, match="--resume"):
        train(config)
    assert train(config, overwrite=True).resumed_from == 0


def test_overwriting_with_settings_that_cannot_work_loses_nothing(settings, tmp_path):
    result = train(TrainConfig.of({**settings, "steps": 1}))
    with pytest.raises(ModelError):
        train(TrainConfig.of({**settings, "base": str(tmp_path / "typo")}), overwrite=True)
    assert (result.guide / "adapter_model.safetensors").exists()


def test_a_quark_run_resumed_between_refreshes_reports_the_same_answers(settings, tmp_path):
    few = tmp_path / "few.txt"
    few.write_text("w1 w2\nw2 w3\nw3 w4\nw4 w5\n")
    settings = {**settings, "prompts": {"source": str(few)}, "algorithm": QUARK, "checkpoint_every": 3}
    whole = train(TrainConfig.of(settings))
    cut = {**settings, "output": str(tmp_path / "cut")}
    train(TrainConfig.of({**cut, "steps": 3}))
    resumed = train(TrainConfig.of(cut), resume=True)
    assert read_metrics(whole.run)[-1]["distinct_2"] == read_metrics(resumed.run)[-1]["distinct_2"]


def test_a_full_small_lm_trained_with_quark_keeps_its_control_tokens(settings, smaller_lm_folder):
    adapter = {"kind": "full", "base": str(smaller_lm_folder)}
    result = train(TrainConfig.of({**settings, "adapter": adapter, "form": "raw", "algorithm": QUARK}))
    guide = LM.load(result.guide)
    assert guide.view.control == 0 and guide.trunk.controls[""].weight.shape[0] == 3


def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_the_last_whole_step(settings, monkeypatch):
    real = update.exact_kl
    calls = []

    def poisoned(log_probs, reference):
        calls.append(1)
        return real(log_probs, reference) * (float("nan") if len(calls) > 4 else 1.0)  # two micro-batches a step

    monkeypatch.setattr(update, "exact_kl", poisoned)
    config = TrainConfig.of(settings)
    with pytest.raises(RunError, match="step 3"):
        train(config)
    assert checkpoint.latest_checkpoint(config.output).name == "step-000002"


def test_a_folder_that_is_no_run_is_not_even_overwritten_when_asked(settings, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="no run"):
        train(TrainConfig.of(settings), overwrite=True)
    assert (tmp_path / "run" / "thesis.txt").exists()


def test_resuming_with_other_settings_is_refused(settings):
    train(TrainConfig.of({**settings, "steps": 1}))
    with pytest.raises(ConfigError, match="learning_rate"):
        train(TrainConfig.of({**settings, "learning_rate": 0.5}), resume=True)


def test_the_run_stops_when_kl_stays_above_the_limit(settings):
    result = train(TrainConfig.of({**settings, "kl": {}, "stop_kl": 1e-9, "steps": 30}))
    assert result.steps == 4  # the first step is at the base exactly; then three in a row are above


def test_an_adapter_is_refused_on_another_base(settings, smaller_lm_folder):
    result = train(TrainConfig.of({**settings, "steps": 1}))
    with pytest.raises(ModelError, match="very weights"):
        LM.load(smaller_lm_folder, dtype="float32").with_adapter(result.guide)


@pytest.mark.parametrize("algorithm", [GRPO, QUARK], ids=["grpo", "quark"])
def test_rollouts_hold_their_keywords_as_often_as_asked(settings, tmp_path, monkeypatch, algorithm):
    prompts = tmp_path / "keywords.jsonl"
    row = {"prompt": "w1 w2", "keywords": ["w3", ["w5", "w6"]]}
    prompts.write_text((json.dumps(row) + "\n") * 6)
    rollout = {"max_new_tokens": 20, "min_new_tokens": 2, "constrained": 1.0}
    seen = []

    def reward(prompts, completions, **columns):
        seen.extend(text.split() for text in completions)
        return [0.0] * len(completions)

    monkeypatch.setattr(trainer, "load_reward", lambda _: reward)
    train(TrainConfig.of({**settings, "algorithm": algorithm, "prompts": {"source": str(prompts)}, "rollout": rollout,
                          "steps": 1}))  # fmt: skip
    firsts = [next((i for i, word in enumerate(words) if word in ("w5", "w6")), None) for words in seen]
    assert any(firsts) and all(
        first is None or "w3" in words[:first] for first, words in zip(firsts, seen, strict=True)
    )


def test_constrained_rollouts_are_drawn_by_prompt_and_seed():
    rows = [{"prompt": "w1", "keywords": ["w3"]}] * 2000
    config = RolloutConfig(constrained=0.75)
    first, again, other = (constraints_of(rows, config, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert 0.72 < sum(each is not None for each in first) / 2000 < 0.78  # three standard deviations: 0.029


@pytest.mark.parametrize("words", [None, "w3", ["unheard"], [""], []])
def test_rows_without_usable_keywords_are_refused_before_the_run_folder_is_touched(settings, tmp_path, words):
    prompts = tmp_path / "keywords.jsonl"
    prompts.write_text(json.dumps({"prompt": "w1", **({} if words is None else {"keywords": words})}) + "\n")
    config = TrainConfig.of({**settings, "prompts": {"source": str(prompts)}, "rollout": {"constrained": 0.5}})
    with pytest.raises(ConfigError, match="keyword"):
        train(config)
    assert not config.output.exists()


def test_what_was_trained_on_an_approximate_base_steers_the_real_one(settings, smaller_lm_folder):
    """The policy file beside the guide has the real base; the guide folder names both."""
    small = str(smaller_lm_folder)
    for form in ("anchored", "raw"):
        config = TrainConfig.of({**settings, "approximate_base": small, "form": form, "kl": {}, "steps": 30})
        result = train(config, overwrite=True)
        assert sum(m["reward"] for m in read_metrics(result.run)[-5:]) > sum(
            m["reward"] for m in read_metrics(result.run)[:5]
        )
        about = json.loads((result.guide / "trimtab.json").read_text())
        assert about["tailors"] == {"source": settings["base"], "approximated_by": small}
        assert about["base"]["source"] == small
        policy = read_policy_file(result.run / "policy.yaml").build(lambda source: LM.load(source, dtype="float32"))
        base = LM.load(settings["base"], dtype="float32")
        assert policy.reference == base
        plain, steered = (
            p.generate([f"w{i} w{i + 1}" for i in range(6)], max_new_tokens=6, seed=0, n=8) for p in (base, policy)
        )
        share = [sum(answer.text.split().count("w3") for answer in answers) for answers in (plain, steered)]
        assert share[1] > share[0]


def test_an_adapter_folder_as_approximate_base_is_refused(settings, smaller_lm_folder, tmp_path):
    """A fresh adapter would take the place of the one that is there."""
    first = train(TrainConfig.of({**settings, "steps": 1}))
    config = TrainConfig.of({**settings, "approximate_base": str(first.guide), "output": str(tmp_path / "second")})
    with pytest.raises(ConfigError, match="adapter"):
        train(config)


def test_an_adapter_is_trained_against_the_likeliest_tokens_of_its_base(settings):
    """All answers are among the base's 5 likeliest tokens, and the reward goes up within them."""
    config = TrainConfig.of({**settings, "base_top_k": 5, "kl": {}, "steps": 30, "seed": 1})
    result = train(config)
    rewards = [m["reward"] for m in read_metrics(result.run)]
    assert sum(rewards[-5:]) > sum(rewards[:5])
    policy = read_policy_file(result.run / "policy.yaml").build(lambda source: LM.load(source, dtype="float32"))
    base = LM.load(settings["base"], dtype="float32")
    assert str(policy).startswith("top_k(")
    (answer,) = policy.generate("w1 w2", max_new_tokens=6, seed=0)
    seen = base.vocabulary.encode("w1 w2")
    for token, mass in zip(answer.token_ids, answer.covered, strict=True):
        best = base.init([seen])[0][0].topk(5)
        assert token in best.indices and mass == pytest.approx(float(best.values.exp().sum()), abs=1e-4)
        seen = [*seen, token]
