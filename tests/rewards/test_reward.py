import functools

import pytest

from trimtab.errors import ConfigError
from trimtab.rewards import Length, as_reward


def constant(completions, value=1.0, **_):
    return [value] * len(completions)


class Callable:
    def __call__(self, completions, **_):
        return [2.0] * len(completions)


def test_a_function_is_named_by_module_and_qualname():
    reward = as_reward(constant)
    assert reward.name == f"{__name__}:constant"
    assert reward.origins == {reward.name}
    assert reward(["p"], ["a"]) == [1.0]


def test_other_callables_are_named_by_their_class():
    assert as_reward(Callable()).name == f"{__name__}:Callable"
    assert as_reward(functools.partial(constant, value=3.0))(["p"], ["a"]) == [3.0]


def test_a_reward_stays_itself():
    reward = Length(3)
    assert as_reward(reward) is reward


@pytest.mark.parametrize("thing", [Callable, Length, "sentiment", None, 3])
def test_what_is_no_reward_is_refused(thing):
    with pytest.raises(ConfigError, match="as a reward"):
        as_reward(thing)
