"""Targets of values and the heads that learn them, by hand and against slow twins."""

import pytest
import torch

from trimtab.training.value_head import FactoredHead, FreeHead
from trimtab.training.value_targets import expected_values, lambda_returns


def slow_returns(values, reward, decay):
    """One answer at a time, from its end: G_T = r, G_t = (1 - lambda) V_{t+1} + lambda G_{t+1}."""
    targets = [reward]
    for following in reversed(values[1:]):
        targets.insert(0, (1 - decay) * following + decay * targets[0])
    return targets


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.95, 1.0])
def test_returns_of_answers_of_unequal_lengths(decay):
    torch.manual_seed(0)
    values, lengths = torch.rand(4, 5), torch.tensor([5, 1, 3, 4])
    rewards = torch.tensor([1.0, 0.25, 0.0, 0.5])
    found = lambda_returns(values, rewards, lengths, decay)
    for row, length in enumerate(lengths.tolist()):
        expected = slow_returns(values[row, :length].tolist(), rewards[row].item(), decay)
        assert found[row, :length].tolist() == pytest.approx(expected, abs=1e-6)


def test_what_stands_past_an_end_never_reaches_a_target():
    values, lengths = torch.zeros(2, 4), torch.tensor([2, 4])
    poisoned = values.clone()
    poisoned[0, 2:] = torch.nan
    found = lambda_returns(poisoned, torch.tensor([1.0, 1.0]), lengths, 0.5)
    assert torch.equal(found[0, :2], lambda_returns(values, torch.ones(2), lengths, 0.5)[0, :2])


def test_an_expected_value_is_the_mean_over_next_tokens():
    log_probs = torch.tensor([[0.2, 0.3, 0.5]]).log()
    assert expected_values(torch.tensor([[1.0, -2.0, 4.0]]), log_probs).item() == pytest.approx(0.2 - 0.6 + 2.0)


@pytest.mark.parametrize("kind", [FactoredHead, FreeHead])
def test_a_head_and_its_output_layer_agree(kind):
    torch.manual_seed(0)
    head = kind(torch.randn(7, 3))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    hidden, tokens = torch.randn(2, 4, 3), torch.randint(7, (2, 4))
    every = hidden @ head.matrix().T
    assert torch.allclose(head(hidden, tokens), every.gather(2, tokens[..., None]).squeeze(2), atol=1e-5)


def test_an_untrained_head_values_everything_at_nothing_and_can_learn():
    head = FactoredHead(torch.randn(7, 3))
    values = head(torch.randn(2, 4, 3), torch.randint(7, (2, 4)))
    assert not values.any()
    (values - 1).square().mean().backward()
    assert head.mixed.grad.abs().sum() > 0 and head.shared.grad.abs().sum() > 0
