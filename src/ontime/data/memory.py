"""Memory that was freed and not given back."""

import ctypes
import gc

import pyarrow as pa


def release_freed_memory() -> None:
    """Give freed memory back to the operating system.

    Python keeps what refers to itself until its next full collection, Arrow and the C library keep
    what was freed for the next allocation. After a training they keep a gigabyte, which the next
    step would need beside its own.
    """
    gc.collect()
    pa.default_memory_pool().release_unused()
    c_library = ctypes.CDLL(None)
    if hasattr(c_library, "malloc_trim"):  # glibc
        c_library.malloc_trim(0)
