"""How the C library hands out memory."""

# Names and numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Tells glibc to keep large blocks that were freed for the next tensors; False where there is no glibc.

    By default it gives them back to the system at once, and every tensor of some megabytes is new memory, which the
    system hands out, and clears, page by page: an elementwise operation on it takes several times as long.
    """
    import ctypes  # here, as --help needs neither
    import platform

    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**26))
    return all(mallopt(name, value) == 1 for name, value in settings)
