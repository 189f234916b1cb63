"""Shared by all tests: one torch thread, and their order."""

import gc

import pytest
import torch

collect_ignore_glob = ["[!t]*.py"]  # what tests import: looking for doctests there would load all of it in each worker


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Sums come in one order, and workers do not fight for cores."""
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """Slow tests first: they mostly wait for processes, so that one worker waits while the others compute."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish():
    """Tests stay to the end. No collection of garbage goes over them again; Flower starts one for each array."""
    gc.collect()
    gc.freeze()
