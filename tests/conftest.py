"""Shared set-up: one thread, because the loops of the reference scan are slower with more."""

from __future__ import annotations

import os
import sys

os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_earlier_runs():
    """Tests must not depend on which ones ran before them in this process."""
    if 'mmengine' in sys.modules:
        from mmengine_state import forget_earlier_runs

        forget_earlier_runs()


@pytest.fixture
def poisoned_memory():
    """Uninitialised memory holds NaN, so that an output nobody wrote shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before)
