"""Shape checks are on in every test: jaxtyping and beartype check each call of mvgenvs, attention and eval."""

import jaxtyping

jaxtyping.install_import_hook(["mvgenvs", "attention", "eval"], "beartype.beartype")

from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from tiny import tiny_pipeline  # noqa: E402

from mvgenvs.cameras import Cameras  # noqa: E402
from mvgenvs.pipeline import MultiViewPipeline  # noqa: E402

torch.set_num_threads(1)  # tiny tensors gain nothing from a second, which waits for its core on a busy machine


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def no_grad() -> Iterator[None]:
    """`stream` asks for it, but the shape checks of the tests hide from torch that it is a generator."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def pipeline() -> MultiViewPipeline:
    """Random weights, but a codec fitted to something; see `tiny.inputs` for what it may be given."""
    pipeline = tiny_pipeline()
    pipeline.codec.fit(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    return pipeline


@pytest.fixture(scope="module")
def saved(pipeline: MultiViewPipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `pipeline`."""
    folder = tmp_path_factory.mktemp("pipeline")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def some_cameras(generator: torch.Generator) -> Cameras:
    """Five cameras at random places outside the object, each with an odd focal length and principal point."""
    from mvgenvs.cameras import look_at_origin

    centers = torch.randn(5, 3, generator=generator)
    centers = centers / centers.norm(dim=-1, keepdim=True) * (1.1 + 0.4 * torch.rand(5, 1, generator=generator))
    K = torch.zeros(5, 3, 3)
    K[:, 0, 0] = 30 + 10 * torch.rand(5, generator=generator)
    K[:, 1, 1] = 30 + 10 * torch.rand(5, generator=generator)
    K[:, :2, 2] = torch.tensor([16.0, 12.0]) + torch.randn(5, 2, generator=generator)
    K[:, 2, 2] = 1
    return Cameras(look_at_origin(centers), K, (24, 32))
