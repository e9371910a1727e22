"""Compare the peak memory of base * lora_guide on one trunk with the base alone: batch 1, 128 tokens, a process each.

    python benchmarks/memory.py [--tokens 128] [--model smollm2-135m]

Prints one JSON object in MB; ``ratio`` is guided divided by base. Each figure is the process's peak resident memory;
``without_imports`` takes off what a process that only imports the library has.
"""

import argparse
import json
import resource
import subprocess
import sys

from peft import LoraConfig

import trimtab as tt


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(kind, model, tokens):
    if kind == "imports":
        tt.LM  # noqa: B018 -- imports torch, transformers and peft
        return peak()
    base = tt.LM.load(model)
    policy = base
    if kind == "guided":
        base.trunk.add_adapter("guide", LoraConfig(r=16, target_modules="all-linear"))
        policy = base * tt.LM(base.trunk, "guide", label="guide")
    policy.generate("The film was", max_new_tokens=tokens, min_new_tokens=tokens, seed=0)
    return peak()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args()
    if options.kind:
        print(measure(options.kind, options.model, options.tokens))
        return
    found = {}
    for kind in ("imports", "base", "guided"):
        command = [sys.executable, __file__, "--kind", kind, "--tokens", str(options.tokens), "--model", options.model]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[kind] = round(float(done.stdout.split()[-1]), 1)
    found["ratio"] = round(found["guided"] / found["base"], 3)
    found["ratio_without_imports"] = round((found["guided"] - found["imports"]) / (found["base"] - found["imports"]), 3)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
