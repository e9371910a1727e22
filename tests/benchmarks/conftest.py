import pytest

from trimtab.benchmarks.setup import Setup


@pytest.fixture(scope="session")
def bench(tiny_lm_folder):
    """A run on a two-layer model: few tokens, one round."""
    return Setup(str(tiny_lm_folder), tokens=4, repeats=1)
