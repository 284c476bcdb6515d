"""Cars of one colour each, and a pipeline that answers with its input and some noise."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch

from mvgenvs.cameras import Cameras, look_at_origin

SIZE, OBJECTS = 16, ("car_a", "car_b", "car_c")
ORBIT_IDS, SRN_IDS = range(40), (0, 30, 64, 104, 110)
CONSISTENCY = {"tsed", "tsed-matches", "warp-psnr", "warp-lpips", "flicker", "loop-lpips", "loop-warp"}


class FakePipeline:
    """Copies the first known image into every view; less noise on it with joint denoising than without."""

    size = SIZE
    config = SimpleNamespace(default_steps=20, default_guidance=1.5)
    denoiser = SimpleNamespace(sees_rendering=True)

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.killed_at: int | None = None

    def __call__(
        self,
        images: torch.Tensor,
        cameras: Cameras,
        target_cameras: Cameras,
        generator: torch.Generator,
        **options: Any,
    ) -> SimpleNamespace:
        assert images.shape[0] == 1
        assert images.shape[1] == cameras.num_views
        if len(self.calls) == self.killed_at:
            raise KeyboardInterrupt
        self.calls.append(options | {"num_known": images.shape[1]})
        clean = images[:, :1, :3].expand(-1, target_cameras.num_views, -1, -1, -1)
        noise = torch.randn(clean.shape, generator=generator)
        return SimpleNamespace(images=clean + (0.05 if options["joint"] else 0.1) * noise, renders=clean + 0.2)


def write_cars(root: Path, view_ids: range | tuple[int, ...]) -> Path:
    """Three test cars whose views go once round, slightly different from view to view."""
    az, el = np.linspace(0, 2 * np.pi, len(view_ids), endpoint=False), np.deg2rad(20)
    height = np.full(len(view_ids), np.sin(el))
    centers = 1.3 * np.stack([np.cos(el) * np.sin(az), height, -np.cos(el) * np.cos(az)], axis=-1)
    poses = look_at_origin(torch.from_numpy(centers)).numpy()
    generator = np.random.default_rng(0)
    for name in OBJECTS:
        folder = root / "cars_test" / name
        for part in ("rgb", "pose"):
            (folder / part).mkdir(parents=True)
        (folder / "intrinsics.txt").write_text(f"16.4 8 8 0.\n0 0 0\n1.\n{SIZE} {SIZE}\n")
        image = generator.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
        for number, view_id in enumerate(view_ids):
            cv2.imwrite(str(folder / "rgb" / f"{view_id:06d}.png"), image // 2 + number)
            (folder / "pose" / f"{view_id:06d}.txt").write_text(" ".join(map(str, poses[number].flatten())))
    return root


def read_summary(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())
