"""What pytest does not look into: modules that can only be imported beside vLLM, where it is not installed."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("vllm") else ["trimtab/engines/vllm/inside", "tests/engines/vllm/inside"]
