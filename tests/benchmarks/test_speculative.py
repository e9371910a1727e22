import pytest
import torch

from trimtab.benchmarks import speculative
from trimtab.benchmarks.speculative import Acceptance, Costs, acceptance, speed_up
from trimtab.policies.toy import Table


def test_a_drafter_that_is_the_target_is_always_accepted():
    table = Table.random(5, seed=0)
    found = acceptance(table, table, [([0], [1, 2, 3, 4])])
    torch.testing.assert_close(found.exact, torch.ones(1, 4))
    assert found.rate == pytest.approx(1.0) and found.tokens(3) == pytest.approx(4.0)


def test_expected_tokens_are_those_of_independent_steps():
    # target (0.5, 0.5), drafter (0.8, 0.2): a token is accepted with 0.5 + 0.2 = 0.7, whatever came before
    target = Table.of({"": {"a": 0.5, "b": 0.5}}, name="target")
    drafter = Table.of({"": {"a": 0.8, "b": 0.2}}, name="drafter")
    generator = torch.Generator().manual_seed(0)
    answers = [([0], torch.randint(2, (40,), generator=generator).tolist()) for _ in range(100)]
    found = acceptance(target, drafter, answers)
    assert found.rate == pytest.approx(0.7)
    # 1 + 0.7 + 0.49 + 0.343, to the noise of 4000 sampled tokens
    assert found.tokens(3) == pytest.approx(2.533, abs=0.03)


def test_expected_tokens_follow_how_acceptance_is_spread():
    # accepted surely, then never, then surely: starts at 0, 1, 2 with blocks of two
    steps = torch.tensor([[1.0, 0.0, 1.0]])
    # first place: (1 + 0 + 1) / 3; second place after starts 0 and 1: 1 * 0 and 0 * 1
    assert Acceptance(steps, steps).tokens(2) == pytest.approx(1 + 2 / 3)
    assert Acceptance(steps, steps).tokens(9) == pytest.approx(1 + 2 / 3)


def test_the_prediction_weighs_tokens_against_forwards():
    sure = Acceptance(torch.ones(1, 8), torch.ones(1, 8))
    costs = Costs(plain=[1.0], draft=[0.1], cycles={1: [1.1], 4: [1.5]})
    # 2 / 1.1 = 1.82 and 5 / 1.5 = 3.33
    assert speed_up(costs, sure) == pytest.approx(10 / 3)


def test_a_drafter_that_does_not_pay_is_predicted_to_be_left_out():
    never = Acceptance(torch.zeros(1, 8), torch.zeros(1, 8))
    assert speed_up(Costs([1.0], [0.5], {1: [1.5], 4: [3.1]}), never) == 1.0


def test_the_suite_asks_for_the_predicted_share(bench):
    found = speculative.suite(bench)
    assert len(found) == 12 and len({measure.name for measure in found}) == 12
    assert [measure.bound for measure in found if "predicted" in measure.name] == [0.85] * 3
    assert all(0 < measure.ratio <= 1 + 1e-5 for measure in found if "acceptance" in measure.name)


def test_the_agreeing_drafter_agrees_when_weights_are_low_enough(bench):
    policy = speculative.agreeing(bench)
    answers = speculative._answers(bench, policy, None, bench.tokens)
    assert acceptance(policy, bench.guide, answers).rate >= speculative.AGREEING
