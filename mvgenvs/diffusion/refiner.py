"""A small image-to-image network that corrects the codec's closed-form reconstruction."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))), without normalisation.

    Normalising by statistics of the whole picture lets a decoder hide a spike that rescales everything else, which
    appears as a blob in the same place of every picture ("droplets" [Karras et al. 2020, arXiv 1912.04958]).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        return x + self.second(F.silu(self.first(F.silu(x))))


class Refiner(nn.Module):
    """A correction of images, computed from each pixel's neighbourhood; zero until it is trained.

    It works on cells of `cell` x `cell` pixels, folded into channels; its receptive field extends 1 + 2 `blocks` + 1
    cells to each side.
    """

    def __init__(self, cell: int, width: int, blocks: int) -> None:
        super().__init__()
        self.cell = cell
        pixels = 3 * cell * cell
        self.enter = nn.Conv2d(pixels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.leave = nn.Conv2d(width, pixels, 3, padding=1)
        for weights in self.leave.parameters():
            nn.init.zeros_(weights)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        """What to add to images in [0, 1], whose sides are multiples of `cell`."""
        cells = F.pixel_unshuffle(images * 2 - 1, self.cell)
        return F.pixel_shuffle(self.leave(F.silu(self.blocks(self.enter(cells)))), self.cell)
