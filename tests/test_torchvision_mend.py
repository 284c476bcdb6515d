"""A torchvision compiled for another torch breaks nobody, whatever is imported first; starting Python stays light."""

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

INSTALLED = Path(sysconfig.get_path("purelib"))
SOURCES = Path(__file__).parents[1] / "mvgenvs/installation"
UNMENDED = "import sys; sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != 'Watcher']\n"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_the_installation_is_the_one_of_these_sources():
    for source in SOURCES.glob("torchvision_mend.*"):
        assert (INSTALLED / source.name).read_text() == source.read_text(), "install again: make .venv/.installed-test"


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_diffusers_may_be_imported_before_mvgenvs_and_what_works_is_left_alone():
    mended = run(
        "from diffusers import UNet2DConditionModel\n"
        "import mvgenvs, torchvision, lpips, torchvision_mend\n"
        "print(len(torchvision_mend._declared))\n"
    )
    assert mended.returncode == 0, mended.stderr
    unmended = run(UNMENDED + "import torchvision")
    broken = "operator torchvision::nms does not exist" in unmended.stderr
    assert (unmended.returncode != 0) == broken, unmended.stderr
    assert int(mended.stdout) == broken


def test_nothing_is_imported_before_torchvision_is():
    result = run(
        "import sys, importlib.util\n"
        "import mvgenvs\n"
        "importlib.util.find_spec('torchvision')\n"
        "assert 'torchvision_mend' in sys.modules\n"
        "assert not {'torch', 'diffusers', 'torchvision'} & set(sys.modules)\n"
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("absent", ["sys.modules['torchvision'] = None", "sys.path[:] = []"])
def test_works_without_torchvision(absent):
    code = f"import sys; {absent}\ntry:\n    import torchvision\nexcept ModuleNotFoundError:\n    print('absent')"
    result = run(code)
    assert (result.returncode, result.stdout) == (0, "absent\n"), result.stderr
