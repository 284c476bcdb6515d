"""Large blocks are used again."""

import subprocess
import sys

import pytest

from mvgenvs.allocator import keep_freed_memory

NEW_PAGES = """
import resource, sys
from mvgenvs.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(2**26)
before = faults()
for _ in range(10):
    bytearray(2**26)
print(faults() - before)
"""


@pytest.mark.skipif(not keep_freed_memory(), reason="another C library than glibc")
def test_freed_memory_is_kept_for_the_next_block():
    """Ten blocks of 64 MB, 16,384 pages each, are new memory ten times, or the same again."""
    plain, kept = (
        int(subprocess.run([sys.executable, "-c", NEW_PAGES, mode], capture_output=True, check=True).stdout)
        for mode in ("plain", "keep")
    )
    assert kept < 100 < plain
