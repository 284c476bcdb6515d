"""Several data sets as one: objects of all of them, drawn in training by the weight of their source."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mvgenvs.data.scenes import open_scenes
from mvgenvs.data.stored import CachedScenes, StoredViews
from mvgenvs.data.streamed import ShardScenes
from mvgenvs.errors import UserError


class Mixture(CachedScenes):
    """The objects of one split of several data sets, one set after the other."""

    def __init__(self, sources: Sequence[CachedScenes], weights: Sequence[float]) -> None:
        """`weights` are the shares of training sets that come from each source, up to a factor."""
        super().__init__()
        self.sources, self.weights = list(sources), list(weights)
        self.places = [(number, index) for number, scenes in enumerate(sources) for index in range(len(scenes))]
        self.objects = [replace(self.sources[number].objects[index], source=number) for number, index in self.places]

    def read(self, index: int) -> StoredViews:
        number, place = self.places[index]
        return self.sources[number].read(place)


def open_mixture(
    roots: Mapping[str, float], split: str, size: int = 128, category: str = "", fit_captures: bool = True
) -> CachedScenes:
    """The split of the data sets at the keys of `roots`, weighted by its values; see `open_scenes`.

    Raises `UserError` if one of them cannot be opened or its weight is not above 0.
    """
    if bad := [root for root, weight in roots.items() if not 0 < weight < float("inf")]:
        raise UserError(f"the weight of the data set {bad[0]} must be above 0")
    sources = [open_scenes(Path(root), split, size, category, fit_captures) for root in roots]
    if len(sources) > 1 and any(isinstance(scenes, ShardScenes) for scenes in sources):
        raise UserError("data.sources: shards are streamed alone: write all that you mix into one data set of shards")
    return sources[0] if len(sources) == 1 else Mixture(sources, list(roots.values()))


def parse_sources(root: str, sources: Sequence[str]) -> dict[str, float]:
    """{folder: weight} of `data.root` and of `data.sources`, whose entries read FOLDER or FOLDER=WEIGHT.

    A folder that exists under the whole entry has weight 1; otherwise the text after the last = is the weight. Raises
    `UserError` for a weight that is not a number.
    """
    roots = {}
    for entry in sources or (root,):
        folder, equals, weight = entry.rpartition("=")
        if not equals or Path(entry).is_dir():
            roots[entry] = 1.0
            continue
        try:
            roots[folder] = float(weight)
        except ValueError:
            raise UserError(f"data.sources: '{entry}' must read FOLDER=WEIGHT, the weight a number") from None
    return roots
