"""Keep freed memory: a round takes and frees temporaries of the model's size thousands of times.

glibc maps every block over 128 KiB anew and unmaps it when freed. Each use then pays a page fault per 4 KiB, which on
virtual machines costs more than the arithmetic. Raising two thresholds of glibc keeps the blocks.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # bytes; glibc takes no more
TRIM_THRESHOLD = 512 * 2**20  # bytes of free memory that are kept


def keep_memory() -> None:
    """Ask this process's allocator to keep freed blocks; does nothing where there is no glibc."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
