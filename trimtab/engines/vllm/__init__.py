"""Steering inside vLLM: all LMs of a policy as one model on its scheduler and its paged cache.

What is under :mod:`.inside` needs vLLM to be imported, the rest does not.
"""
