"""Intervals of means against what the normal distribution says of many values, and paired leads."""

import numpy as np
import pytest

from trimtab.errors import ConfigError
from trimtab.evaluation.bootstrap import bootstrap


def test_the_interval_is_that_of_the_normal_distribution():
    """For 400 draws of mean 2 and spread 3 the interval is about mean +- 1.96 * 3 / sqrt(400) = +- 0.294."""
    values = np.random.default_rng(0).normal(2.0, 3.0, 400)
    found = bootstrap(values.tolist())
    spread = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - spread, abs=0.02)
    assert found.high == pytest.approx(values.mean() + spread, abs=0.02)


def test_it_covers_the_truth_about_as_often_as_it_says():
    """In 200 experiments of 50 values a 90 % interval misses about 20 times; between 8 and 36 in all but 1 in 1000."""
    random = np.random.default_rng(1)
    found = [bootstrap(random.normal(0.0, 1.0, 50).tolist(), level=0.9, draws=500) for _ in range(200)]
    assert 8 <= sum(not each.low <= 0 <= each.high for each in found) <= 36


def test_the_same_seed_gives_the_same_interval_and_no_values_none():
    assert bootstrap([1.0, 5.0, 2.0], seed=3) == bootstrap([1.0, 5.0, 2.0], seed=3)
    with pytest.raises(ConfigError, match="no values"):
        bootstrap([])
