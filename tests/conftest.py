"""Shared by all tests: one torch thread, so that sums come in one order and workers do not fight for cores."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)
