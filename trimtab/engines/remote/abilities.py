"""What can be done with a model that only an API offers: what it gives decides."""

from dataclasses import replace

from trimtab.engines.abilities import Abilities

REMOTE_TOP_K = Abilities(
    "remote, top 20",
    known=20,
    inside=False,
    streams=False,
    in_memory=False,
    distributions=True,
    keywords=False,
    every_token=False,
)
"""An endpoint with the log-probabilities of the 20 likeliest tokens, the most that usual ones give."""

REMOTE_TEXT = replace(REMOTE_TOP_K, name="remote, text", known=0)
"""An endpoint that gives text and nothing else."""
