"""What is about to be made, before minutes are spent on it: the target cameras around the NeRF's rendering."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from mvgenvs.cameras import Cameras
from mvgenvs.diffusion.networks import Networks
from mvgenvs.folders import OwnFolder
from mvgenvs.generation import ModelInputs, load_model, model_inputs
from mvgenvs.inputs import KnownView
from mvgenvs.media import contact_sheet, write_png
from mvgenvs.nerf.field import Scene
from mvgenvs.trajectories import FOCAL_PER_WIDTH, RADIUS, angles_of, cameras_at, centers_at, evenly_spread

NAME = "preview.png"
SHOWN, DRAWN = 16, 48  # thumbnails, and cameras on the map, of a longer trajectory: evenly spaced
THUMBNAIL = 96  # pixels
MAP = 560  # pixels: width of the map
LOOKING_DOWN, ROOM = 35.0, 1.25  # degrees; the map's half width by the distance of the farthest camera
BORDER = 12  # pixels above and below what is drawn
FRUSTUM = 0.18  # length of a drawn camera by its distance from the origin
INPUT, FIRST, LAST = (0, 130, 70), (40, 105, 200), (255, 140, 40)  # RGB

Canvas = UInt8[np.ndarray, "height width 3"]


def write_preview(
    options: argparse.Namespace, device: torch.device, known: Sequence[KnownView], targets: Cameras
) -> None:
    """Lifts the NeRF, writes OUTPUT/preview.png, and says where. Nothing is sampled. Raises `UserError`."""
    files = [path for given in options.known for path in given.files]
    with OwnFolder(options.output) as folder:
        folder.claim([NAME], files)
        pipe = load_model(options, device, bool(known))
        given = model_inputs(known, pipe.size, device)
        print("".join(f"{note}\n" for note in given.notes), end="")
        write_png(folder.path / NAME, preview_picture(pipe, given, targets))
    azimuths, elevations = angles_of(targets.centers)
    print(
        f"{targets.num_views} views from azimuth {azimuths[0]:.0f}, elevations {elevations.min():.0f} to "
        f"{elevations.max():.0f}: see {Path(options.output, NAME)}. Without --preview, they are made."
    )


@torch.no_grad()
def preview_picture(pipe: Any, given: ModelInputs, targets: Cameras) -> Canvas:
    """A map of the cameras, and below it the input views and the NeRF's renderings at some of the targets."""
    assert given.images is not None and given.cameras is not None
    networks, hw = pipe.networks, (pipe.size, pipe.size)
    scene = networks.lift([given.images], given.cameras.resized(hw))
    assert scene is not None  # since there are images
    drawn = scene_map(networks, scene, given.cameras, targets)
    numbers = evenly_spread(targets.num_views, SHOWN)
    thumbnails = on_white(rendered(networks, scene, targets.select(numbers).resized((THUMBNAIL, THUMBNAIL))))
    rows = [("input", given.images[0, :, :3].float().cpu()), ("NeRF at the targets", thumbnails)]
    sheet = contact_sheet(rows, numbers=numbers)
    width = max(drawn.shape[1], sheet.shape[1])
    parts = [np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0)), constant_values=255) for part in (drawn, sheet)]
    return np.concatenate(parts)


def scene_map(networks: Networks, scene: Scene, cameras: Cameras, targets: Cameras) -> Canvas:
    """The map around a scene that was lifted with the batched `cameras`."""
    azimuth = angles_of(cameras.centers[0, 0])[0].item() - 25  # a little aside, so that the input is seen
    looking_down = centers_at(torch.tensor([azimuth]), torch.tensor([LOOKING_DOWN]))
    observer = cameras_at(looking_down, (networks.size, networks.size))
    known = Cameras(cameras.c2w[0].cpu(), cameras.K[0].cpu(), cameras.hw)
    return camera_map(observer, rendered(networks, scene, observer)[0], known, targets)


def camera_map(observer: Cameras, picture: Float[Tensor, "4 h w"], known: Cameras, targets: Cameras) -> Canvas:
    """All cameras as pyramids around the object, as seen by one who looks on from far away.

    `picture` is the object, RGB and opacity, seen by `observer`, one camera of training from the same direction. Known
    views are green; targets go from blue, the first, to orange. What is behind the object is drawn before it.
    """
    farthest = max(float(cameras.centers.norm(dim=-1).max()) for cameras in (known, targets))
    scale = MAP / 2 / (ROOM * farthest)  # pixels per world unit at the origin
    numbers = evenly_spread(targets.num_views, DRAWN)
    path = np.array(targets.centers.tolist())
    shapes = [(_pyramid(targets, i), _colour(i, targets.num_views), str(i)) for i in numbers]
    shapes += [(_pyramid(known, i), INPUT, f"i{i}") for i in range(known.num_views)]
    axes = observer.c2w[0, :3, :3].double().numpy()  # columns: right, down, forward

    def place(points: Float[np.ndarray, "n 3"]) -> list[tuple[int, int]]:
        """Points on the canvas, in parallel projection."""
        flat = points @ axes[:, :2] * scale + MAP / 2
        return [(round(x), round(y)) for x, y in flat.tolist()]

    canvas = np.full((MAP, MAP, 3), 255, np.uint8)
    cv2.polylines(canvas, [np.array(place(path))], False, (215, 215, 215), 2, cv2.LINE_AA)
    shapes.sort(key=lambda shape: -float(shape[0][0] @ axes[:, 2]))  # the farthest first
    behind = [shape for shape in shapes if float(shape[0][0] @ axes[:, 2]) > 0]
    for shape in behind:
        _draw(canvas, place(shape[0]), *shape[1:])
    _paste(canvas, picture, round(scale * RADIUS / FOCAL_PER_WIDTH))
    for shape in shapes[len(behind) :]:
        _draw(canvas, place(shape[0]), *shape[1:])
    used = np.flatnonzero((canvas < 255).any(axis=(1, 2)))
    return canvas[max(0, used[0] - BORDER) : used[-1] + BORDER]


def _pyramid(cameras: Cameras, view: int) -> Float[np.ndarray, "5 3"]:
    """A camera's centre and the corners of its image, not far before it."""
    height, width = cameras.hw
    one = cameras.select([view])
    length = FRUSTUM * one.centers[0].norm()
    corners = torch.tensor([[[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]]])
    points = one.unproject(corners.to(one.c2w), length.expand(1, 4))
    return torch.cat([one.centers, points[0]]).double().numpy()


def _draw(canvas: Canvas, points: Sequence[tuple[int, int]], colour: tuple[int, int, int], name: str) -> None:
    centre, *corners = points
    cv2.polylines(canvas, [np.array(corners)], True, colour, 1, cv2.LINE_AA)
    for corner in corners:
        cv2.line(canvas, centre, corner, colour, 1, cv2.LINE_AA)
    outward = np.sign(np.array(centre) - MAP / 2)
    x, y = np.array(centre) + outward * 8 + np.array([-8, 4])
    cv2.putText(canvas, name, (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX, 0.38, colour, 1, cv2.LINE_AA)


def _paste(canvas: Canvas, picture: Float[Tensor, "4 h w"], side: int) -> None:
    """Puts the object over the middle of the canvas."""
    pixels = cv2.resize(picture.movedim(0, -1).numpy(), (side, side), interpolation=cv2.INTER_AREA).clip(0, 1)
    start = (MAP - side) // 2
    part = canvas[start : start + side, start : start + side]
    opacity = pixels[..., 3:]
    part[:] = (opacity * pixels[..., :3] * 255 + (1 - opacity) * part).round().astype(np.uint8)


def rendered(networks: Networks, scene: Scene, cameras: Cameras) -> Float[Tensor, "view 4 h w"]:
    """The object's colours and opacity."""
    with networks.computing():
        found = networks.nerf.render(scene, cameras.batched().to(networks.denoiser.device))
    opacity = found.opacity[0].float().cpu().clamp(0, 1)
    own = (found.rgb[0].float().cpu() - (1 - opacity)) / opacity.clamp(min=1e-3)  # the background is white
    return torch.cat([own.clamp(0, 1), opacity], dim=1)


def on_white(pictures: Float[Tensor, "view 4 h w"]) -> Float[Tensor, "view 3 h w"]:
    """RGB over a white background."""
    return pictures[:, :3] * pictures[:, 3:] + 1 - pictures[:, 3:]


def _colour(view: int, count: int) -> tuple[int, int, int]:
    share = view / max(1, count - 1)
    red, green, blue = (round((1 - share) * a + share * b) for a, b in zip(FIRST, LAST, strict=True))
    return red, green, blue
