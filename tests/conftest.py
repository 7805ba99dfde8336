"""The shapes in minibert's signatures are checked at run time in every test, but for those that ask to be a user."""

import jaxtyping
import pytest
import shapes
import torch

shapes.install()
torch.set_num_threads(1)  # the models here are small, and two tests run side by side


@pytest.fixture
def as_a_user():
    """Without the run-time shape checks, which a user doesn't have: bad input meets minibert's own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
