"""Time our loop against transformers' own generate: same model, prompts and lengths, in one process, alternating.

    python benchmarks/generate.py [--rows 1 8 32] [--tokens 32] [--repeats 7] [--model smollm2-135m]

Prints one JSON object; ``ratio`` is our median time divided by theirs, so below 1 is faster.
"""

import argparse
import json
import statistics
import time

import torch
from transformers import AutoModelForCausalLM

import trimtab as tt
from trimtab.assets import get_model

PROMPT = "The film was a"


def seconds(run):
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args()
    base = tt.LM.load(options.model)
    # A model of its own, as users of transformers have it: frozen weights slow the output layer of its generate.
    model = AutoModelForCausalLM.from_pretrained(get_model(options.model)).eval()
    tokenizer, tokens = base.vocabulary.tokenizer, options.tokens
    found = {"model": options.model, "tokens": tokens, "threads": torch.get_num_threads(), "torch": torch.__version__}
    for rows in options.rows:
        inputs = tokenizer([PROMPT] * rows, return_tensors="pt")
        sampled = {"do_sample": True, "top_k": 0, "pad_token_id": tokenizer.eos_token_id}
        runs = {
            "ours": lambda rows=rows: base.generate(
                [PROMPT] * rows, max_new_tokens=tokens, min_new_tokens=tokens, seed=0
            ),
            "transformers_sampling": lambda inputs=inputs, sampled=sampled: model.generate(
                **inputs, max_new_tokens=tokens, min_new_tokens=tokens, **sampled
            ),
            "ours_greedy": lambda rows=rows: base.generate(
                [PROMPT] * rows, max_new_tokens=tokens, min_new_tokens=tokens, temperature=0
            ),
            "transformers_greedy": lambda inputs=inputs: model.generate(
                **inputs,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            ),
        }
        times = {name: [] for name in runs}
        for repeat in range(options.repeats + 1):
            for name, run in runs.items():
                spent = seconds(run)
                if repeat:  # the first round warms up
                    times[name].append(spent)
        medians = {name: statistics.median(each) for name, each in times.items()}
        found[f"rows_{rows}"] = {
            **{name: round(median, 4) for name, median in medians.items()},
            "ratio_sampling": round(medians["ours"] / medians["transformers_sampling"], 3),
            "ratio_greedy": round(medians["ours_greedy"] / medians["transformers_greedy"], 3),
        }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
