"""Training sets drawn from shards. Each process has shards of its own and uses a few at a time.

Which shards a set is drawn from is, like everything else about it, a function of its index. So no two processes see the
same set or shard, and a resumed run draws what it would have drawn.
"""

from typing import Any

import numpy as np

from mvgenvs.data.sampling import Families, TrainingSets
from mvgenvs.data.streamed import KEPT, ShardScenes
from mvgenvs.errors import UserError

DRAWS = 4  # training sets per object of a shard before another shard replaces it


class StreamedSets(TrainingSets):
    """`TrainingSets` whose window of `KEPT` shards moves on as sets are drawn."""

    def __init__(self, scenes: ShardScenes, *arguments: Any, world: int, share: int, **options: Any) -> None:
        """`world` processes draw `share` sets each in turn. Raises `UserError` if there are fewer shards."""
        super().__init__(scenes, *arguments, **options)
        by_shard: dict[int, list[int]] = {}
        for index, shard in enumerate(scenes.shard_of):
            by_shard.setdefault(shard, []).append(index)
        if len(by_shard) < world:
            raise UserError(f"{len(by_shard)} shards cannot be shared by {world} processes: write more, see --shards")
        self.stream, self.world, self.share, self.by_shard = scenes, world, share, by_shard
        order = np.random.default_rng((self.seed, 2)).permutation(sorted(by_shard)).tolist()
        self.own = [order[rank::world] for rank in range(world)]
        self.pace = max(1, DRAWS * len(scenes) // len(order))  # sets until the window moves on by a shard
        self._last: tuple[tuple[int, ...], Families] = ((), self.families)  # a window, and what is in it

    def window(self, index: int) -> tuple[int, ...]:
        """The shards from which the set with this index is drawn; all belong to the process that draws the set."""
        own = self.own[index // self.share % self.world]
        drawn = index // (self.share * self.world) * self.share  # by this process, before the current batch
        first = drawn // self.pace
        return tuple(sorted({own[(first + place) % len(own)] for place in range(KEPT)}))

    def candidates(self, index: int) -> Families:
        shards = self.window(index)
        if self._last[0] != shards:
            self.stream.hold(shards)
            self._last = shards, self.families_of(index for shard in shards for index in self.by_shard[shard])
        return self._last[1]
