"""Every recipe against numbers worked out by hand from the paper's formula; the working is beside each number."""

import math

import pytest
import torch

from trimtab.policies.knob import Knob
from trimtab.policies.recipes import (
    anchored,
    cfg,
    contrastive,
    dera,
    detoxigen,
    dexperts,
    eft,
    genarm,
    ipa,
    mod,
    proxy_tuning,
)
from trimtab.policies.support import within
from trimtab.policies.toy import Table


def table(name, *probabilities):
    return Table.of({"": dict(zip("abcd", probabilities, strict=False))}, name=name)


def says(policy, *expected, **knobs):
    """Assert the probabilities of the next token."""
    log_probs = policy.next_log_probs(["a"], knobs or None)
    torch.testing.assert_close(log_probs.exp(), torch.tensor([expected]), atol=1e-6, rtol=1e-5)


BASE = table("base", 0.5, 0.3, 0.2)
GUIDE = table("guide", 0.2, 0.3, 0.5)
TUNED = table("tuned", 0.5, 0.25, 0.25)
UNTUNED = table("untuned", 0.25, 0.5, 0.25)


def test_ipa_is_the_product():
    # 0.5 * 0.2 : 0.3 * 0.3 : 0.2 * 0.5 = 0.10 : 0.09 : 0.10, sum 0.29
    says(ipa(BASE, GUIDE), 10 / 29, 9 / 29, 10 / 29)
    # 0.5 * 0.04 : 0.3 * 0.09 : 0.2 * 0.25 = 0.020 : 0.027 : 0.050, sum 0.097
    says(ipa(BASE, GUIDE, 2), 20 / 97, 27 / 97, 50 / 97)


def test_anchored_multiplies_by_what_training_changed():
    # ratio 0.5/0.25, 0.25/0.5, 0.25/0.25 = 2, 1/2, 1: 1.00 : 0.15 : 0.20, sum 1.35 = 27 * 0.05
    says(anchored(BASE, TUNED, UNTUNED), 20 / 27, 3 / 27, 4 / 27)
    # squared 4, 1/4, 1: 2.000 : 0.075 : 0.200, sum 2.275 = 91 * 0.025
    says(anchored(BASE, TUNED, UNTUNED, 2), 80 / 91, 3 / 91, 8 / 91)


def test_an_adapter_that_learned_nothing_leaves_the_base_when_anchored_and_sharpens_when_raw():
    assert anchored(BASE, BASE, BASE, Knob("strength")) == BASE
    assert anchored(BASE, UNTUNED, UNTUNED) == BASE
    # the raw product with a copy of the base squares it: 0.25 : 0.09 : 0.04, sum 0.38
    says(ipa(BASE, BASE), 25 / 38, 9 / 38, 4 / 38)


def test_eft_proxy_tuning_and_anchored_are_one_operator():
    says(eft(BASE, TUNED, UNTUNED), 20 / 27, 3 / 27, 4 / 27)
    assert eft(BASE, TUNED, UNTUNED, 0.5) == proxy_tuning(BASE, TUNED, UNTUNED, 0.5)
    assert eft(BASE, TUNED, UNTUNED, 0.5) == anchored(BASE, TUNED, UNTUNED, 0.5)


def test_dera_slides_from_the_reference_over_the_aligned_model_and_beyond():
    says(dera(BASE, GUIDE, 0.0), 0.5, 0.3, 0.2)
    says(dera(BASE, GUIDE, 1.0), 0.2, 0.3, 0.5)
    # guide^2 / base: 0.04 / 0.5 : 0.09 / 0.3 : 0.25 / 0.2 = 0.08 : 0.30 : 1.25, sum 1.63
    says(dera(BASE, GUIDE, 2.0), 8 / 163, 30 / 163, 125 / 163)
    # geometric mean: sqrt(0.1) : 0.3 : sqrt(0.1)
    root = math.sqrt(0.1)
    says(dera(BASE, GUIDE, 0.5), *(x / (2 * root + 0.3) for x in (root, 0.3, root)))


@pytest.mark.parametrize("lam", [-1.0, 0.0, 0.3, 1.0, 2.5, Knob("lam", 0.7)])
def test_dera_is_eft_with_the_reference_as_base_and_untuned(lam):
    assert dera(BASE, GUIDE, lam) == eft(BASE, GUIDE, BASE, lam)


EXPERT = table("expert", 0.6, 0.36, 0.04)
AMATEUR = table("amateur", 0.8, 0.12, 0.08)


def test_contrastive_divides_among_plausible_tokens():
    # plausible from 0.1 * 0.6 = 0.06 on, so not c; 0.6 / 0.8 : 0.36 / 0.12 = 0.75 : 3
    says(contrastive(EXPERT, AMATEUR), 0.2, 0.8, 0)
    # from 0.05 * 0.6 = 0.03 on c stays: 0.75 : 3 : 0.5, sum 4.25
    says(contrastive(EXPERT, AMATEUR, 0.05), 3 / 17, 12 / 17, 2 / 17)


def test_contrastive_with_beta():
    # expert^2 / amateur: 0.36 / 0.8 : 0.1296 / 0.12 = 0.45 : 1.08, sum 1.53
    says(contrastive(EXPERT, AMATEUR, beta=1.0), 5 / 17, 12 / 17, 0)
    # beta 0 is the expert on a and b: 0.6 : 0.36
    says(contrastive(EXPERT, AMATEUR, beta=0.0), 0.625, 0.375, 0)


def test_cfg_amplifies_what_the_prompt_changed():
    # conditional^2 / unconditional = 0.25 / 0.2 : 0.09 / 0.3 : 0.04 / 0.5 = 1.25 : 0.30 : 0.08, sum 1.63
    guided = cfg(BASE, GUIDE, 2)
    says(guided, 125 / 163, 30 / 163, 8 / 163)
    assert guided.reference == BASE
    assert cfg(BASE, GUIDE, 1) == BASE
    says(cfg(BASE, GUIDE, 0), 0.2, 0.3, 0.5)
    assert cfg(BASE, GUIDE, 0).reference == BASE


def test_dexperts_cuts_the_base_to_its_nucleus():
    base = table("base", 0.5, 0.3, 0.15, 0.05)
    expert = table("expert", 0.4, 0.2, 0.1, 0.3)
    anti = table("anti", 0.2, 0.4, 0.1, 0.3)
    # 0.5 + 0.3 < 0.9 <= 0.5 + 0.3 + 0.15, so d is cut; ratio squared 4, 1/4, 1:
    # 2 : 0.075 : 0.15, sum 2.225 = 89 * 0.025
    says(dexperts(base, expert, anti, 2), 80 / 89, 3 / 89, 6 / 89, 0)
    # a negative strength flips it: ratio 1/2, 2, 1: 0.25 : 0.60 : 0.15, sum 1
    says(dexperts(base, expert, anti, -1), 0.25, 0.6, 0.15, 0)
    assert dexperts(base, expert, anti).reference == base


def test_mod_is_the_weighted_geometric_mean():
    # sqrt(0.9 * 0.2) : sqrt(0.1 * 0.8) = sqrt(0.18) : sqrt(0.08) = 3 : 2
    says(mod([table("helpful", 0.9, 0.1), table("harmless", 0.2, 0.8)], [0.5, 0.5]), 0.6, 0.4)
    assert mod([BASE, GUIDE], [1.0, 0.0]) == BASE


def test_genarm_multiplies_reward_models_in():
    base, kind, short = table("base", 0.5, 0.5), table("kind", 0.8, 0.2), table("short", 0.2, 0.8)
    # 0.5 * 0.64 * 0.2 : 0.5 * 0.04 * 0.8 = 0.064 : 0.016
    says(genarm(base, [kind, short], [2, 1]), 0.8, 0.2)
    assert genarm(base, [], []) == base


def test_detoxigen_subtracts_clips_and_cuts():
    generator = table("generator", 0.5, 0.3, 0.15, 0.05)
    toxic = table("toxic", 0.1, 0.5, 0.35, 0.05)
    # 2 P - Q = 0.9, 0.1, -0.05 -> 0, 0.05; d is outside the generator's nucleus
    says(detoxigen(generator, toxic, 1), 0.9, 0.1, 0, 0)
    # without the cut d stays: sum 0.9 + 0.1 + 0.05 = 1.05
    says(detoxigen(generator, toxic, 1, top_p=1.0), 18 / 21, 2 / 21, 0, 1 / 21)
    # alpha 0 takes nothing away: the generator in its nucleus
    torch.testing.assert_close(
        detoxigen(generator, toxic, 0).next_log_probs(["a"]), within(generator, 0.9).next_log_probs(["a"])
    )
    assert detoxigen(generator, toxic, 1).reference == generator


def test_detoxigen_cuts_by_the_generator_and_not_by_the_difference():
    generator, toxic = table("generator", 0.4, 0.35, 0.25), table("toxic", 0.05, 0.5, 0.45)
    # the generator's nucleus at 0.7 is a, b; 2 P - Q = 0.75 : 0.20 : 0.05, whose own nucleus would be a alone
    says(detoxigen(generator, toxic, 1, top_p=0.7), 15 / 19, 4 / 19, 0)
