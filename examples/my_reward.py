"""A reward of your own: any function with this signature. Use it with `--set reward=my_reward:exclamations`."""


def exclamations(prompts, completions, **columns):
    """Score each completion by its exclamation marks, at most three."""
    return [min(text.count("!"), 3) / 3 for text in completions]
