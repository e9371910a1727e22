"""Compare a policy inside vLLM with plain vLLM, and with what the two models cost alone: tokens a second, CPU or GPU.

    .venv-vllm/bin/python benchmarks/inside_vllm.py [--rounds 3] [--tokens 24] [--layers 8] [--dtype bfloat16]

Each kind runs in a process of its own, one after the other, round by round; figures are medians over rounds. ``ideal``
is plain cost / (plain cost + guide cost), from running each alone. Prints one JSON object.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REQUESTS = (1, 8, 32)
KINDS = ("plain", "guide", "both")
TEXT = "The film was about a man who had never seen the sea and wanted to know what it is like to"


def write_guide(folder, base, layers):
    """Write the first layers of a model as a model of its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    model.model.layers = model.model.layers[:layers]
    model.config.num_hidden_layers = layers
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = model.config.layer_types[:layers]
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def start(kind, base, guide, dtype):
    """Start vLLM, with one model or with both."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    arguments = {
        "dtype": dtype,
        "enforce_eager": True,
        "max_model_len": 512,
        "enable_prefix_caching": False,
        "kv_cache_memory_bytes": 2**30,
    }
    if kind != "both":
        return LLMEngine.from_engine_args(EngineArgs(model=guide if kind == "guide" else base, **arguments))
    from trimtab.engines.vllm.engine import VLLMEngine
    from trimtab.policies.policy_file import PolicyFile

    content = {"models": {"base": base, "guide": guide}, "knobs": {"strength": {}}, "policy": "base * guide^strength"}
    return VLLMEngine(PolicyFile.model_validate(content), arguments).engine


def measure(kind, base, guide, dtype, tokens):
    """Return tokens a second at each number of requests, the best of three."""
    from vllm import SamplingParams

    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    engine = start(kind, base, guide, dtype)
    found = {}
    for count in REQUESTS:
        seconds = []
        for attempt in range(4):  # the first one warms up
            for number in range(count):
                extra = {"strength": number / count} if kind == "both" else None
                params = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, extra_args=extra)
                engine.add_request(f"{count}.{attempt}.{number}", TEXT[: 12 + number % 60], params)
            start_time = time.perf_counter()
            while engine.has_unfinished_requests():
                engine.step()
            seconds.append(time.perf_counter() - start_time)
        found[count] = count * tokens / min(seconds[1:])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind")
    parser.add_argument("--guide")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args()
    from trimtab.assets import get_model

    base = str(get_model(options.model))
    if options.kind:
        print(json.dumps(measure(options.kind, base, options.guide, options.dtype, options.tokens)))
        return
    with tempfile.TemporaryDirectory() as room:
        guide = str(Path(room) / "guide")
        write_guide(guide, base, options.layers)
        shared = ["--guide", guide, "--dtype", options.dtype, "--tokens", str(options.tokens), "--model", options.model]
        rounds = {kind: [] for kind in KINDS}
        for _ in range(options.rounds):
            for kind in KINDS:
                command = [sys.executable, __file__, "--kind", kind, *shared]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                rounds[kind].append(json.loads(done.stdout.splitlines()[-1]))
    table = {}
    for count in map(str, REQUESTS):
        speed = {kind: statistics.median(each[count] for each in rounds[kind]) for kind in KINDS}
        ideal = (1 / speed["plain"]) / (1 / speed["plain"] + 1 / speed["guide"])
        ratio = statistics.median(b[count] / p[count] for b, p in zip(rounds["both"], rounds["plain"], strict=True))
        table[count] = {**{kind: round(value, 1) for kind, value in speed.items()}} | {
            "of plain": round(ratio, 3),
            "ideal": round(ideal, 3),
            "of ideal": round(ratio / ideal, 3),
        }
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
