"""What a run imports before its first sampler step: no more than it needs, or seconds pass in which nothing happens."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mvgenvs.diffusion.codec import PatchCodec

REPO = Path(__file__).parent.parent
NOT_NEEDED = (
    "diffusers.hooks",
    "diffusers.loaders",
    "diffusers.models.autoencoders",
    "diffusers.models.unets",
    "diffusers.pipelines.pipeline_utils",
    "mvgenvs.pipeline",
    "mvgenvs.reconstruction.reconstruct",
    "peft",
    "scipy",
    "torchvision",
    "transformers.modeling_utils",
)


def test_a_run_with_the_bundled_model_imports_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    arguments = ["--image", "assets/car.png", "--camera", "assets/car.json", "--num-views", "1", "--steps", "1"]
    code = (
        "import gc, runpy, sys\n"
        f"sys.argv = ['infer_multiview.py', *{[*arguments, '--output', str(tmp_path)]}]\n"
        "try: runpy.run_path('infer_multiview.py', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        f"print('imported:', [name for name in {NOT_NEEDED} if name in sys.modules])\n"
        "print('frozen:', gc.get_freeze_count() > 100_000, gc.isenabled())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "frames/000.png").exists()
    assert done.stdout.splitlines()[-2:] == ["imported: []", "frozen: True True"]


def test_collection_goes_on_after_an_import_that_fails() -> None:
    code = (
        "import gc\nfrom mvgenvs.cli import without_collection\n"
        "try:\n    with without_collection():\n        assert not gc.isenabled(); import no_such_module\n"
        "except ImportError: print(gc.isenabled())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert done.stdout == "True\n", done.stderr


def test_a_network_says_where_it_is_and_moves_without_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.hooks.group_offloading", None)  # no import of it succeeds
    codec = PatchCodec(4, 8)
    assert codec.to("meta", torch.float16) is codec
    assert (codec.device, codec.dtype) == (torch.device("meta"), torch.float16)


def test_a_network_under_group_offloading_stays_where_it_is(caplog: pytest.LogCaptureFixture) -> None:
    codec = PatchCodec(4, 8)
    codec.enable_group_offload(torch.device("cpu"), offload_type="leaf_level")
    logging.getLogger("diffusers").addHandler(caplog.handler)
    try:
        codec.to("meta")
    finally:
        logging.getLogger("diffusers").removeHandler(caplog.handler)
    assert codec.device == torch.device("cpu")
    assert "group offloaded" in caplog.text


def test_a_network_that_is_cast_layer_by_layer_computes_in_the_other_format() -> None:
    codec = PatchCodec(4, 8)
    codec.enable_layerwise_casting(storage_dtype=torch.bfloat16, compute_dtype=torch.float32)
    assert next(codec.parameters()).dtype == torch.bfloat16
    assert codec.dtype == torch.float32
