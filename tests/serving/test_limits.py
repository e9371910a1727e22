"""Limits: every bound is one."""

import math

import pytest

from trimtab.errors import ConfigError
from trimtab.serving.limits import Limits


@pytest.mark.parametrize("name", list(vars(Limits())))
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_a_bound_below_one_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        Limits(**{name: value})
