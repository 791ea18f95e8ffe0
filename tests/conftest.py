"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

pytest_plugins = ["tests.fixtures"]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny models win nothing by a second thread and, on a busy machine, lose a hundredfold by waiting for it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
