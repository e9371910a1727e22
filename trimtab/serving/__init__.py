"""An OpenAI-compatible server in which every request sets how it is steered, and a playground to see what that does.

One thread runs the engines; everything else is the event loop's. What a client sends is never code, a path, a template
or an address: it may name what the operator has loaded, and nothing else.
"""
