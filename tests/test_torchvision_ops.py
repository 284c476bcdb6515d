"""A torchvision compiled for another torch does not break what imports it; the package stays light."""

import importlib.util
import subprocess
import sys

import pytest


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_torchvision_diffusers_and_lpips_import_after_mvgenvs():
    result = run("import mvgenvs, torchvision, diffusers, lpips; from diffusers import DiffusionPipeline, UNet2DModel")
    assert result.returncode == 0, result.stderr


def test_declaring_twice_is_harmless_and_the_package_imports_nothing_heavy():
    result = run(
        "import sys, mvgenvs\n"
        "assert not {'torch', 'diffusers', 'torchvision'} & set(sys.modules)\n"
        "import torch, mvgenvs.torchvision_ops\n"
        "mvgenvs.torchvision_ops.declare_missing_torchvision_ops()\n"
        "assert mvgenvs.torchvision_ops.declare_missing_torchvision_ops() is False\n"
    )
    assert result.returncode == 0, result.stderr


def test_works_without_torchvision():
    result = run("import sys; sys.modules['torchvision'] = None; import mvgenvs; print(mvgenvs.__version__)")
    assert result.returncode == 0, result.stderr
