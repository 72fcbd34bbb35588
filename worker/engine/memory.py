"""Memory: giving it back, and telling that there was too little of it. Imports no torch."""

from __future__ import annotations

import ctypes
import gc
import re
import sys

# As torch (on the processor, on CUDA) and the C++ library say it, always in a RuntimeError.
_REFUSED = re.compile(r"out of memory|allocate memory|bad_alloc|bad allocation", re.IGNORECASE)


def wanted_memory(error: BaseException) -> bool:
    """Whether the error says that memory was asked for and refused."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and _REFUSED.search(str(error)) is not None
    )


def peak_device_bytes() -> int | None:
    """The most memory that this process has held on its GPU, None if it uses none. Does not load torch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_reserved())


def give_back() -> None:
    """Collect garbage and hand free pages to the system, where the C library can (glibc).

    Tensors of many sizes leave holes that the C library keeps for itself.
    """
    gc.collect()
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    if trim is not None:
        trim(0)
