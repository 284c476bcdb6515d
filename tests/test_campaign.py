"""A sample of the campaign of faults; `python tests/campaign` runs all of it."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="faults are made by Unix's means")
pytest.importorskip("moderngl", reason="objects are rendered")


def test_a_sample_of_faults_is_survived() -> None:
    """In a process of its own, since one that has computed before cannot be forked safely."""
    command = [sys.executable, str(Path(__file__).parent / "campaign"), "--sample"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert "| together | " in done.stdout
