"""A setting of the C library's memory allocator."""

# Names and numbers from glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Tells glibc to keep large freed blocks for the next tensors. Returns False if there is no glibc.

    By default it returns them to the system at once, so every tensor of some megabytes is new memory, which the system
    provides, and clears, page by page: an elementwise operation on it takes several times as long.
    """
    import ctypes  # here, since --help does not need it
    import platform

    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26))
    return all(mallopt(name, value) == 1 for name, value in settings)


def give_back_freed_memory() -> bool:
    """Returns the blocks that are kept to the system, for measurements. Returns False if there is no glibc."""
    import ctypes
    import platform

    return platform.libc_ver()[0] == "glibc" and ctypes.CDLL(None).malloc_trim(0) == 1
