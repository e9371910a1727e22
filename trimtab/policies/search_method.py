"""The named methods of search, as policy files and the command line write them; it knows no shapes."""

from typing import Literal

TokenWise = Literal["args", "fudge", "rad", "cd", "vas"]
"""The methods that choose every token among candidates, by a value with a weight."""

Method = Literal["chunk_beam", "blockwise", "best_of_n", "deal", "rejection", "speculative_rejection", "smc", TokenWise]
