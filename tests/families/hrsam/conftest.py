"""HRSAM with the weights behind its golden arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import hrsam_models as made
import pytest
import torch

from inter2former_deploy.families.hrsam.model import HRSAM


@pytest.fixture(scope="session")
def hrsam_models() -> Callable[[str], HRSAM]:
    """`hrsam_models("hrsam_probe")`: the model behind the golden arrays, in evaluation mode; do not change it."""
    return cache(made.model)


@pytest.fixture(scope="session")
def hrsam_weights() -> Callable[[str], dict[str, torch.Tensor]]:
    """The state dict behind the golden arrays."""
    return made.weights
