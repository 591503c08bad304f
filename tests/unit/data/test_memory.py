"""Freed memory goes back to the operating system."""

import sys
from typing import Any

import psutil
import pytest

from ontime.data.memory import release_freed_memory

BLOCK = 100_000  # bytes; below the size that malloc gives back by itself
N_BLOCKS = 2_000


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no malloc_trim")
def test_memory_of_a_cycle_is_given_back() -> None:
    release_freed_memory()
    before = resident()
    cycle: list[Any] = [b"x" * (BLOCK + i % 2) for i in range(N_BLOCKS)]
    in_use = cycle[-1]  # above the freed blocks: malloc alone gives back only what is on top
    cycle.append(cycle)
    assert resident() - before > 0.9 * BLOCK * N_BLOCKS
    del cycle
    release_freed_memory()
    assert resident() - before < 0.1 * BLOCK * N_BLOCKS
    assert len(in_use) == BLOCK + 1
