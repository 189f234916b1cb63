"""Shared by all tests: one torch thread, and their order."""

import gc
import logging

import pytest
import torch

collect_ignore_glob = ["[!t]*.py"]  # what tests import: looking for doctests there would load all of it in each worker


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Sums come in one order, and workers do not fight for cores."""
    torch.set_num_threads(1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pytest_collection_modifyitems(items):
    """Slow tests first: they mostly wait for processes, so that one worker waits while the others compute."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_collection_finish():
    """Loggers hand on to the root: pytest goes to each one that does not, a dozen times in every test.

    Tests stay to the end. No collection of garbage goes over them again; Flower starts one for each array."""
    for logger in logging.getLogger().manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.propagate = True
    gc.collect()
    gc.freeze()
