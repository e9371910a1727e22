"""Steer without any training: three exact policies over three words, and what the algebra makes of them."""

import trimtab as tt

base = tt.Table.of({"": {"good": 0.2, "fine": 0.5, "bad": 0.3}}, name="base")
tuned = tt.Table.of({"": {"good": 0.6, "fine": 0.3, "bad": 0.1}}, name="tuned")
policy = base * (tuned / base) ** tt.Knob("strength", 1.0, min=0.0, max=3.0)

print(policy)
for strength in (0.0, 1.0, 2.0):
    probabilities = policy.next_log_probs(["fine"], {"strength": strength}).exp()[0].tolist()
    print(strength, [round(p, 3) for p in probabilities])
