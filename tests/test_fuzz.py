"""minibert against the reference on random configurations and calls; `make fuzz N=… SEED=…` runs as many as wished."""

import os
import warnings

import differential
import pytest
from hypothesis import given, seed, settings

EXAMPLES, SEED, CHUNK = int(os.environ.get("FUZZ_EXAMPLES", 2000)), int(os.environ.get("FUZZ_SEED", 0)), 500


def fuzz(chunk_seed, examples):
    """Compare on so many random cases; an error shows the smallest that fails."""

    @seed(chunk_seed)
    @settings(differential.SETTINGS, max_examples=examples)
    @given(differential.cases())
    def compare(case):
        differential.compare(case)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fallbacks, which are asked for here
        compare()


@pytest.mark.parametrize("chunk", range(-(-EXAMPLES // CHUNK)))
def test_any_configuration_and_call(chunk):
    fuzz(SEED * 1_000_000 + chunk, min(CHUNK, EXAMPLES - chunk * CHUNK))
