"""PPO, RLOO, REINFORCE and masks: their losses against slow obvious twins, and what they learn."""

import copy
import json
import math
import signal
import statistics
from dataclasses import replace

import pytest
import torch
import yaml
from transformers import LlamaForCausalLM

from trimtab.errors import ConfigError
from trimtab.rewards import load_reward
from trimtab.training import checkpoint
from trimtab.training.batch import Coefficients, Memory
from trimtab.training.config import TrainConfig
from trimtab.training.estimators import explained_variance
from trimtab.training.interrupt import deferred_interrupt
from trimtab.training.log import read_metrics
from trimtab.training.losses import Coefficient
from trimtab.training.mask import RoomyNucleus
from trimtab.training.policy_gradient import PolicyGradient
from trimtab.training.ppo import PPO
from trimtab.training.prompts import read_prompts
from trimtab.training.ranks import Ranks
from trimtab.training.rollouts import Block, Sampler
from trimtab.training.trainee import Trainee
from trimtab.training.trainer import train
from trimtab.training.update import NAMES, Updater

ALGORITHMS = {
    "rloo": {"name": "rloo", "prompts": 6, "answers": 4},
    "reinforce": {"name": "reinforce", "prompts": 6, "answers": 4},
    "running": {"name": "reinforce", "prompts": 6, "answers": 4, "baseline": "running"},
    "ppo": {"name": "ppo", "prompts": 6, "answers": 4, "rows": 12, "epochs": 2},
    "masked": {"name": "grpo", "prompts": 6, "answers": 4, "mask": {"top_p": 0.9, "refresh_every": 3}},
}


@pytest.fixture
def settings(tiny_lm_folder, tmp_path, monkeypatch):
    """Settings of a run that takes a second: reward = share of the words w0 ... w9 among the words."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "low_words.py").write_text(
        "def low(prompts, completions, **columns):\n"
        "    words = [text.split() for text in completions]\n"
        "    return [sum(len(w) == 2 for w in each) / max(1, len(each)) for each in words]\n"
    )
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"w{i} w{i + 1}"}) + "\n" for i in range(6)))
    return {
        "base": str(tiny_lm_folder),
        "adapter": {"rank": 4, "alpha": 8},
        "prompts": {"source": str(prompts)},
        "reward": "low_words:low",
        "rollout": {"max_new_tokens": 6, "min_new_tokens": 1},
        "steps": 4,
        "learning_rate": 0.01,
        "micro_rows": 24,
        "checkpoint_every": 1000,
        "dtype": "float32",
        "output": str(tmp_path / "run"),
    }


def built(settings):
    """Return a configuration, its trainee and where its answers come from."""
    config = TrainConfig.of(settings)
    trainee = Trainee.build(config)
    sampler = Sampler(read_prompts(config.prompts), load_reward(config.reward), config.rollout, config.seed)
    return config, trainee, sampler


def disturb(trainee, seed, size=0.2):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trainee.parameters.values():
            parameter += size * torch.randn(parameter.shape, generator=generator)


def plain_model(settings, trainee):
    """Return the guide as a model of transformers of its own, the factors multiplied into its weights."""
    model = LlamaForCausalLM.from_pretrained(settings["base"], dtype=torch.float32)
    scale = settings["adapter"]["alpha"] / settings["adapter"]["rank"]
    tensors = {name.removeprefix("base_model.model."): each for name, each in trainee.parameters.items()}
    for name, first in tensors.items():
        if name.endswith("lora_A.weight"):
            second = tensors[name.replace("lora_A", "lora_B")]
            model.get_submodule(name.removesuffix(".lora_A.weight")).weight.data += scale * (second @ first).detach()
    return model


@torch.no_grad()
def obvious(model, rollout, head=None):
    """Return log-probabilities of every token and values of every prefix of one answer, from one whole forward."""
    ids = torch.tensor([[*rollout.prompt, *rollout.completion]])
    output = model(ids, output_hidden_states=True)
    places = slice(len(rollout.prompt) - 1, ids.shape[1] - 1)
    log_probs = output.logits[0, places].log_softmax(-1)
    values = None if head is None else head(output.hidden_states[-1][0, places])[:, 0].tolist()
    return log_probs, values


def surrogate(log_prob, old, advantage, clip):
    """PPO's loss of one token, case by case: no gain beyond the clip, losses in full."""
    ratio = math.exp(log_prob - old)
    if advantage >= 0:
        return -advantage * min(ratio, 1 + clip)
    return -advantage * max(ratio, 1 - clip)


def tokens_of(model, batch):
    """Return, answer by answer, the log-probabilities of its own tokens."""
    found = []
    for rollout in batch.rollouts:
        log_probs, _ = obvious(model, rollout)
        found.append([row[token].item() for row, token in zip(log_probs, rollout.completion, strict=True)])
    return found


def measured(trainee, algorithm, batch, rows, weights=(0.0, 0.0)):
    """Return what one update measures, by name."""
    trainee.require_grad(True)
    updater = Updater(trainee, algorithm, torch.optim.SGD(trainee.parameters.values(), lr=0.0), Ranks(), rows, 1e9)
    kl, entropy = (Coefficient(weight) for weight in weights)
    means = updater.update(batch, Coefficients(kl, entropy), 1).means
    return dict(zip(NAMES, means.tolist(), strict=True))


@pytest.mark.parametrize("average", ["token", "answer"])
def test_the_loss_of_ppo_is_that_of_its_slow_twin(settings, average):
    algorithm = {**ALGORITHMS["ppo"], "discount": 0.9, "decay": 0.8, "value_coefficient": 0.3, "average": average}
    config, trainee, sampler = built({**settings, "algorithm": algorithm})
    disturb(trainee, 1)
    ppo = PPO(trainee, sampler, config.algorithm, 5)
    passes = ppo.passes(0, 0.05)
    assert [len(batches) for batches in passes] == [2, 2]  # two epochs of two batches
    base = LlamaForCausalLM.from_pretrained(settings["base"], dtype=torch.float32)
    before = plain_model(settings, trainee)
    head = copy.deepcopy(trainee.value_head)
    # what was sampled, judged token by token
    advantages, old_values, returns = {}, {}, {}
    for rollout in ppo.latest:
        values = obvious(before, rollout, head)[1]
        references = obvious(base, rollout)[0]
        earned = [
            -0.05 * (own - reference[token].item())
            for own, reference, token in zip(rollout.log_probs, references, rollout.completion, strict=True)
        ]
        earned[-1] += rollout.reward
        surprise = [r + 0.9 * after - v for r, v, after in zip(earned, values, [*values[1:], 0.0], strict=True)]
        size = len(surprise)
        found = [sum((0.9 * 0.8) ** k * surprise[t + k] for k in range(size - t)) for t in range(size)]
        advantages[rollout], old_values[rollout] = found, values
        returns[rollout] = [a + v for a, v in zip(found, values, strict=True)]
    every = [a for found in advantages.values() for a in found]
    mean, deviation = statistics.fmean(every), statistics.pstdev(every)
    assert len({len(rollout.completion) for rollout in ppo.latest}) > 1  # of unequal lengths
    # the policy and the head move, then the loss of one batch is taken
    disturb(trainee, 2, 0.05)
    after, batch = plain_model(settings, trainee), passes[0][0]
    rows = []
    for rollout, log_probs in zip(batch.rollouts, tokens_of(after, batch), strict=True):
        values = obvious(after, rollout, trainee.value_head)[1]
        row = []
        for t, log_prob in enumerate(log_probs):
            loss = surrogate(log_prob, rollout.log_probs[t], (advantages[rollout][t] - mean) / deviation, 0.2)
            near = min(max(values[t], old_values[rollout][t] - 0.2), old_values[rollout][t] + 0.2)
            loss += 0.3 * max((v - returns[rollout][t]) ** 2 for v in (values[t], near)) / 2
            row.append(loss)
        rows.append(row)
    by_token = statistics.fmean(loss for row in rows for loss in row)
    expected = by_token if average == "token" else statistics.fmean(map(statistics.fmean, rows))
    # the KL weight is not a part of this loss, however large: it is in the rewards
    got = measured(trainee, ppo, batch, 5, (100.0, 0.0))
    assert got["loss"] == pytest.approx(expected, abs=1e-4)
    assert 0 < got["clip_share"] < 1


@pytest.mark.parametrize("name", ["rloo", "reinforce", "running"])
def test_the_losses_of_reinforce_and_rloo_are_those_of_their_slow_twins(settings, name):
    config, trainee, sampler = built({**settings, "algorithm": ALGORITHMS[name]})
    disturb(trainee, 3)
    algorithm = PolicyGradient(trainee, sampler, config.algorithm)
    algorithm.restore(Memory(baseline=0.25))
    ((batch,),) = algorithm.passes(3, 0.0)
    rewards = [rollout.reward for rollout in batch.rollouts]
    total = 0.0
    tokens = tokens_of(plain_model(settings, trainee), batch)
    for i, log_probs in enumerate(tokens):
        group = range(i // 4 * 4, i // 4 * 4 + 4)
        baseline = {
            "rloo": statistics.fmean(rewards[j] for j in group if j != i),
            "reinforce": statistics.fmean(rewards),
            "running": 0.25,
        }[name]
        total -= (rewards[i] - baseline) * len(log_probs)  # on policy every ratio is 1
    expected = total / sum(map(len, tokens))
    got = measured(trainee, algorithm, batch, 7)
    assert got["loss"] == pytest.approx(expected, abs=1e-5) and got["clip_share"] == 0 and math.isnan(got["value_loss"])
    # the mean of four steps: .25 three times, and this one
    if name == "running":
        assert algorithm.memory().baseline == pytest.approx(0.25 + (statistics.fmean(rewards) - 0.25) / 4)


def test_punishing_entropy_as_much_as_kl_is_punishing_surprise_under_the_base(settings):
    config, trainee, sampler = built({**settings, "algorithm": ALGORITHMS["rloo"]})
    disturb(trainee, 5)
    algorithm = PolicyGradient(trainee, sampler, config.algorithm)
    ((batch,),) = algorithm.passes(0, 0.0)
    base, tailored = (
        LlamaForCausalLM.from_pretrained(settings["base"], dtype=torch.float32),
        plain_model(settings, trainee),
    )
    surprise = [
        -(own.exp() * reference).sum().item()  # -sum_y pi(y) log pi_base(y)
        for rollout in batch.rollouts
        for own, reference in zip(obvious(tailored, rollout)[0], obvious(base, rollout)[0], strict=True)
    ]
    plain = measured(trainee, algorithm, batch, 24)["loss"]
    got = measured(trainee, algorithm, batch, 24, (0.3, -0.3))["loss"]
    assert got - plain == pytest.approx(0.3 * statistics.fmean(surprise), abs=1e-4)


def test_no_target_is_held_by_punishing_entropy(settings):
    with pytest.raises(ValueError, match="punishes entropy, with a target"):
        TrainConfig.model_validate({**settings, "entropy": {"coefficient": -0.1, "target": 2.0}})


@pytest.mark.parametrize("name", ["rloo", "reinforce"])
def test_on_policy_the_gradient_is_that_of_advantage_times_log_probability(settings, name):
    config, trainee, sampler = built({**settings, "algorithm": ALGORITHMS[name]})
    disturb(trainee, 4)
    algorithm = PolicyGradient(trainee, sampler, config.algorithm)
    ((batch,),) = algorithm.passes(0, 0.0)
    measured(trainee, algorithm, batch, 24)
    got = {key: each.grad.clone() for key, each in trainee.parameters.items()}
    trainee.require_grad(True)
    loss, count = 0.0, 0
    for rollout, advantage in zip(batch.rollouts, batch.advantages[:, 0].tolist(), strict=True):  # one row at a time
        reading = trainee.read([rollout.prompt], Block.of([rollout.completion]), [None])
        loss = loss - advantage * reading.chosen(reading.log_probs).sum()
        count += len(rollout.completion)
    for each in trainee.parameters.values():
        each.grad = None
    (loss / count).backward()
    for key, each in trainee.parameters.items():
        assert torch.allclose(got[key], each.grad, atol=1e-5), key


@pytest.mark.parametrize("kind", ["lora", "full", "raw", "strong"])
def test_the_value_head_reads_the_guides_own_stream(settings, smaller_lm_folder, kind):
    """Whatever else runs beside the guide (base, untrained), the values are those of the guide alone."""
    extra = {
        "lora": {},
        "raw": {"form": "raw"},
        "strong": {"strength": 1.5},
        "full": {"form": "raw", "adapter": {"kind": "full", "base": str(smaller_lm_folder)}},
    }[kind]
    _, trainee, _ = built({**settings, "algorithm": ALGORITHMS["ppo"], **extra})
    disturb(trainee, 5)
    trainee.require_grad(True)
    prompts, answers = [(2, 3, 4), (5,)], [(6, 7), (8, 9, 10, 11)]
    values = trainee.read(prompts, Block.of(answers), (None, None)).values
    assert values.shape == (2, 4) and values.requires_grad
    model = trainee.guide.trunk.model if kind == "full" else plain_model(settings, trainee)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        with torch.no_grad():
            hidden = model(torch.tensor([[*prompt, *answer]]), output_hidden_states=True).hidden_states[-1][0]
            expected = trainee.value_head(hidden[len(prompt) - 1 : -1])[:, 0]
        assert torch.allclose(values[row, : len(answer)], expected, atol=1e-4)
    single = trainee.read(prompts, Block.of([answer[:1] for answer in answers]), (None, None)).values
    assert torch.allclose(single, values[:, :1], atol=1e-5)  # answers of one token have no block to step


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_training_raises_the_reward(settings, name):
    steps = 20
    result = train(TrainConfig.of({**settings, "algorithm": ALGORITHMS[name], "steps": steps, "seed": 1}))
    metrics = read_metrics(result.run)
    rewards = [m["reward"] for m in metrics]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2
    for key in ("value_loss", "explained_variance"):
        assert (key in metrics[0]) == (name == "ppo")
    assert all(0 <= m["clip_share"] <= 1 for m in metrics)


def test_a_value_head_comes_to_explain_what_prefixes_are_worth(settings):
    algorithm = {**ALGORITHMS["ppo"], "rows": 24, "value_coefficient": 1.0, "value_clip": 10.0}
    config, trainee, sampler = built({**settings, "algorithm": algorithm})
    ppo = PPO(trainee, sampler, config.algorithm, 24)
    batch = ppo.passes(0, 0.0)[0][0]
    batch = replace(batch, advantages=torch.zeros_like(batch.advantages))  # nothing for the policy to learn
    trainee.require_grad(True)
    optimiser = torch.optim.Adam(trainee.parameters.values(), lr=0.01)
    updater = Updater(trainee, ppo, optimiser, Ranks(), 24, 1.0)
    none = Coefficients(Coefficient(0.0), Coefficient(0.0))
    losses = [dict(zip(NAMES, updater.update(batch, none, 1).means.tolist(), strict=True)) for _ in range(40)]
    assert batch.critique.explained == pytest.approx(0, abs=1e-6)  # it begins with 0 for everything
    assert losses[-1]["value_loss"] < losses[0]["value_loss"] / 4
    assert losses[0]["loss"] == pytest.approx(losses[0]["value_loss"])
    values = trainee.read([each.prompt for each in batch.rollouts], batch.block, batch.controls).values.detach()
    assert explained_variance(values, batch.critique.returns, batch.block.mask) > 0.5


def test_a_penalty_in_the_loss_is_not_in_the_rewards(settings):
    config, trainee, sampler = built({**settings, "algorithm": {**ALGORITHMS["ppo"], "kl_as": "loss"}})
    disturb(trainee, 9)
    ppo = PPO(trainee, sampler, config.algorithm, 24)
    free, weighed = ppo.passes(0, 0.0)[0][0], ppo.passes(0, 9.0)[0][0]
    assert torch.equal(free.critique.returns, weighed.critique.returns)
    got, plain = (measured(trainee, ppo, free, 24, (weight, 0.0)) for weight in (2.0, 0.0))
    assert got["kl"] > 0.01 and got["loss"] - plain["loss"] == pytest.approx(2.0 * got["kl"], abs=1e-5)


def test_a_penalty_in_the_reward_holds_ppo_near_the_base(settings):
    algorithm = ALGORITHMS["ppo"]
    kls = []
    for weight in (0.0, 1.0):
        output = str(settings["output"]) + str(weight)
        run = {**settings, "algorithm": algorithm, "kl": {"coefficient": weight}, "steps": 8, "output": output}
        kls.append(read_metrics(train(TrainConfig.of(run)).run)[-1]["kl"])
    assert kls[1] < kls[0] / 2


def test_the_value_head_is_kept_for_resuming_and_not_written_into_the_guide(settings):
    result = train(TrainConfig.of({**settings, "algorithm": ALGORITHMS["ppo"], "steps": 2}))
    tensors = checkpoint.load_file(checkpoint.latest_checkpoint(result.run) / "tensors.safetensors")
    assert tensors["parameter/value.weight"].shape == (1, 32) and tensors["parameter/value.weight"].any()
    assert not any("value" in name for name in checkpoint.load_file(result.guide / "adapter_model.safetensors"))


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_ctrl_c_finishes_the_step_and_saves_it(settings, name):
    def interrupt(metrics):
        signal.raise_signal(signal.SIGINT)

    config = TrainConfig.of({**settings, "algorithm": ALGORITHMS[name], "steps": 2})
    with pytest.raises(KeyboardInterrupt):
        train(config, on_step=interrupt)
    assert checkpoint.latest_checkpoint(config.output).name == "step-000001"
    assert train(config, resume=True).resumed_from == 1


def test_the_echo_of_a_launcher_is_no_second_ctrl_c():
    with deferred_interrupt(60.0) as interrupted:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        assert interrupted.is_set()
    with pytest.raises(KeyboardInterrupt), deferred_interrupt():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


# -- masks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_masked_policy_is_the_tailored_one_inside_the_copys_nucleus(settings, smaller_lm_folder, kind):
    adapter = {"kind": "full", "base": str(smaller_lm_folder)} if kind == "full" else settings["adapter"]
    algorithm = {**ALGORITHMS["masked"], "mask": {"top_p": 0.7, "refresh_every": 3}}
    _, trainee, _ = built({**settings, "form": "raw", "adapter": adapter, "algorithm": algorithm})
    disturb(trainee, 6)
    trainee.refresh_mask(3)  # the copy is of now ...
    prompts = [[2, 3], [9]]
    nucleus = trainee._tailored(trainee.guide).init(prompts)[0].exp()
    disturb(trainee, 7)
    trainee.refresh_mask(4)  # ... and not due again
    free, masked = trainee._tailored(trainee.guide).init(prompts)[0].exp(), trainee.policy().init(prompts)[0].exp()
    for row in range(2):
        kept, held = set(), 0.0
        for token in nucleus[row].argsort(descending=True).tolist():
            kept.add(token)
            held += nucleus[row, token].item()
            if held >= 0.7 and len(kept) >= 2:  # two, of which one is not the end
                break
        inside = sum(free[row, token].item() for token in kept)
        expected = [free[row, t].item() / inside if t in kept else 0.0 for t in range(free.shape[1])]
        assert masked[row].tolist() == pytest.approx(expected, abs=1e-5)
    trainee.refresh_mask(6)
    assert all(torch.equal(each, trainee.parameters[name]) for name, each in trainee.mask.parameters.items())


def test_masked_answers_stay_inside_and_their_log_probabilities_are_renormalised(settings):
    algorithm = {**ALGORITHMS["masked"], "mask": {"top_p": 0.5, "refresh_every": 10}}
    config, trainee, sampler = built({**settings, "algorithm": algorithm})
    disturb(trainee, 8, 0.1)
    ((batch,),) = PolicyGradient(trainee, sampler, config.algorithm).passes(0, 0.0)
    trainee.require_grad(True)
    reading = trainee.read([each.prompt for each in batch.rollouts], batch.block, batch.controls)
    own = reading.chosen(reading.log_probs)[batch.block.mask]
    assert torch.allclose(own, batch.old_log_probs[batch.block.mask], atol=1e-4)
    cut = torch.isinf(reading.log_probs[batch.block.mask])
    assert cut.any() and torch.allclose(reading.log_probs.exp().sum(-1), torch.ones(batch.block.tokens.shape))


def test_a_mask_leaves_a_token_where_an_answer_may_not_end_yet():
    # the nucleus of .9 is the end token, 1, alone; the next likeliest is kept as well
    older = torch.tensor([[[0.04, 0.95, 0.01]]]).log()
    assert RoomyNucleus(0.9, 2).keeps(older).tolist() == [[[True, True, False]]]
    assert RoomyNucleus(0.9, 1).keeps(older).tolist() == [[[False, True, False]]]
    assert RoomyNucleus(0.9, 5).keeps(older).all()


def test_a_masked_run_goes_on_with_the_mask_it_had(settings, tmp_path):
    algorithm = {**ALGORITHMS["masked"], "mask": {"top_p": 0.6, "refresh_every": 2}}
    run = {**settings, "algorithm": algorithm, "steps": 4}
    whole = train(TrainConfig.of(run))
    cut = {**run, "output": str(tmp_path / "cut")}
    train(TrainConfig.of({**cut, "steps": 3}))  # the copy is of step 2, not of now
    resumed = train(TrainConfig.of(cut), resume=True)
    a, b = (checkpoint.load_file(each.guide / "adapter_model.safetensors") for each in (whole, resumed))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_masked_run_tells_its_nucleus_to_those_who_decode(settings):
    result = train(TrainConfig.of({**settings, "algorithm": ALGORITHMS["masked"], "steps": 1}))
    policy = yaml.safe_load((result.run / "policy.yaml").read_text())
    assert policy["decoding"] == {"top_p": 0.9} and policy["policy"] == "base * (guide / base)^strength"


@pytest.mark.parametrize(
    ("algorithm", "named"),
    [
        ({"name": "quark", "mask": {"top_p": 0.9}}, "mask"),
        ({"name": "rloo", "answers": 1}, "answers"),
        ({"name": "rloo", "baseline": "batch"}, "baseline"),
        ({"name": "reinforce", "prompts": 1}, "its own mean"),
        ({"name": "ppo", "decay": 1.5}, "decay"),
        ({"name": "ppo", "kl_as": "both"}, "kl_as"),
        ({"name": "ppo", "mask": {"top_p": 1.0}}, "top_p"),
        ({"name": "grpo", "rows": 3}, "rows"),
        ({"name": "nlpo"}, "'grpo', 'rloo', 'reinforce', 'ppo', 'quark'"),
        ({"prompts": 3}, "algorithm"),
    ],
)
def test_settings_that_make_no_sense_are_refused(algorithm, named):
    with pytest.raises(ConfigError, match=named):
        TrainConfig.of({"algorithm": algorithm})


def test_a_mask_and_keywords_are_refused_together():
    with pytest.raises(ConfigError, match="no token of a keyword"):
        TrainConfig.of({"algorithm": {"name": "ppo", "mask": {}}, "rollout": {"constrained": 0.5}})
    with pytest.raises(ConfigError, match="base_top_k"):
        TrainConfig.of({"base_top_k": 5, "rollout": {"constrained": 0.5}})


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_answers_to_one_prompt_share_its_pass_and_its_gradient(tiny_lm_folder, name):
    """A batch of repeated prompts reads and learns what its rows do one by one."""
    config = TrainConfig(base=str(tiny_lm_folder), algorithm={"name": name}, adapter={"rank": 2}, dtype="float32")
    trainee = Trainee.build(config)
    with torch.no_grad():
        for parameter in trainee.parameters.values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    trainee.require_grad(True)
    prompts = [(4, 5, 6), (7, 8), (4, 5, 6), (7, 8), (4, 5, 6)]
    answers = [[3, 9, 5], [8, 2], [6, 6, 6, 6], [9], [5, 4]]

    def read(rows):
        trained = list(trainee.parameters.values())
        for parameter in trained:
            parameter.grad = None
        block = Block.of([answers[i] for i in rows])
        found = trainee.read([prompts[i] for i in rows], block, [None] * len(rows))
        chosen = found.chosen(found.log_probs) * block.mask
        values = torch.zeros(()) if found.values is None else (found.values * block.mask).sum()
        (chosen.sum() + values).backward()
        gradients = torch.cat(
            [torch.zeros_like(each).flatten() if each.grad is None else each.grad.flatten() for each in trained]
        )
        return chosen.sum(1).detach(), gradients, values.detach()

    together, gradients, values = read([0, 1, 2, 3, 4])
    apart = [read([i]) for i in range(5)]
    assert torch.allclose(together, torch.cat([each[0] for each in apart]), atol=1e-5)
    assert torch.allclose(gradients, sum(each[1] for each in apart), atol=1e-4) and gradients.abs().max() > 0.01
    assert torch.allclose(values, sum(each[2] for each in apart), atol=1e-4)
