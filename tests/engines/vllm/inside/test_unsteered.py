"""What would leave requests unsteered is refused at the start.

The last file: numba, which vLLM loads for drafts by n-grams, hinders later starts in this process.
"""

import pytest

from trimtab.errors import ConfigError


def test_what_would_not_steer_is_refused_at_the_start(policy_file, started):
    file = policy_file("base * guide")
    with pytest.raises(ConfigError, match="speculative"):
        started(file, speculative_config={"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2})
    with pytest.raises(ConfigError, match="base, which has 4 attention heads"):
        started(file, tensor_parallel_size=3)
    with pytest.raises(ConfigError, match="nonsense"):
        started(file, nonsense=1)
