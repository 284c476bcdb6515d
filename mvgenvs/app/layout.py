"""The page of the browser app: its parts, and which event calls which handler."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from mvgenvs.app.handlers import Handlers
from mvgenvs.app.studio import LARGEST_SEED, MOST_STEPS, MOST_VIEWS, PLANS, Studio, discard

KEPT = 3600  # seconds after which what a page left behind is deleted
HEAD = "### mvgenvs: views from all sides of an object in one photo"
CAMERA_HELP = "If *front* does not show the front, correct the azimuth, or turn it around."


@dataclass(frozen=True, eq=False, slots=True)
class PhotoPart:
    """Where the photo is dropped, and its cut and camera are shown and corrected."""

    photo: Any
    matte: Any
    mask: Any
    shown: Any
    azimuth: Any
    elevation: Any
    turn: Any
    live: Any
    path: Any


@dataclass(frozen=True, eq=False, slots=True)
class OrbitPart:
    """Where the orbit is chosen, watched, turned and taken away."""

    plan: Any
    views: Any
    height: Any
    steps: Any
    seed: Any
    generate: Any
    stop: Any
    status: Any
    strip: Any
    turntable: Any
    video: Any
    files: Any
    mesh: Any
    mesh_shown: Any


def build_page(studio: Studio, example: Path | None = None) -> gr.Blocks:
    """The whole page; every browser tab has its own states. `example` is a photo that the page offers."""
    handlers = Handlers(studio)
    with gr.Blocks(title="mvgenvs", analytics_enabled=False, delete_cache=(KEPT // 4, KEPT)) as page:
        gr.Markdown(HEAD)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                photo = _photo_part(example)
            with gr.Column(scale=5, min_width=360):
                orbit = _orbit_part()
        subject, lifted = (gr.State(None, time_to_live=KEPT) for _ in range(2))
        made = gr.State(None, time_to_live=KEPT, delete_callback=discard)
        _wire_photo(handlers, photo, orbit, subject, lifted)
        _wire_orbit(handlers, photo, orbit, subject, made)
    page.queue(max_size=32, api_open=False)
    return page


def _photo_part(example_file: Path | None) -> PhotoPart:
    photo = gr.File(label="Photo of a car", file_types=["image"], height=110, elem_id="photo")
    example = gr.Button("Take the example", size="sm", visible=example_file is not None, elem_id="example")
    example.click(lambda: str(example_file), outputs=photo, queue=False)
    choices = [("find it", "auto"), ("none", "none"), ("mask", "mask")]
    matte = gr.Radio(choices, value="auto", label="Cut", elem_id="matte")
    mask = gr.File(label="Mask", file_types=["image"], height=110, visible=False, elem_id="mask")
    shown = gr.HTML(elem_id="cut")
    gr.Markdown(f"**Camera of the photo.** {CAMERA_HELP}")
    with gr.Row():
        azimuth = gr.Slider(-180, 180, value=45, step=1, label="Azimuth (0: front)", elem_id="azimuth")
        elevation = gr.Slider(-20, 85, value=20, step=1, label="Elevation", elem_id="elevation")
    turn = gr.Button("Turn it around", size="sm", elem_id="turn")
    live = gr.HTML(elem_id="live")
    path = gr.HTML(elem_id="path")
    return PhotoPart(photo, matte, mask, shown, azimuth, elevation, turn, live, path)


def _orbit_part() -> OrbitPart:
    with gr.Row():
        views = gr.Slider(1, MOST_VIEWS, value=24, step=1, label="Views", elem_id="views")
        height = gr.Slider(-10, 85, value=20, step=1, label="Elevation of the orbit", elem_id="height")
    with gr.Accordion("Sampling", open=False):
        plan = gr.Dropdown(list(PLANS), value="sliding", label="Plan: which views are made together")
        with gr.Row():
            steps = gr.Slider(0, MOST_STEPS, value=0, step=1, label="Steps, 0: as the model was made for")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=LARGEST_SEED)
    with gr.Row():
        generate = gr.Button("Generate", variant="primary", elem_id="generate")
        stop = gr.Button("Stop", min_width=80, scale=0, elem_id="stop")
    status = gr.HTML(elem_id="status")
    turntable = gr.HTML(elem_id="turntable")
    strip = gr.HTML(elem_id="strip")
    with gr.Row():
        video = gr.Video(label="Video", height=240, loop=True, autoplay=True, interactive=False, elem_id="video")
        mesh_shown = gr.Model3D(
            label="Mesh", height=240, interactive=False, elem_id="mesh-shown", camera_position=(-135, 75, None)
        )
    mesh = gr.Button("Make a mesh (GLB)", interactive=False, elem_id="mesh")
    files = gr.File(label="Downloads", file_count="multiple", interactive=False, elem_id="files")
    parts = (plan, views, height, steps, seed, generate, stop, status, strip, turntable)
    return OrbitPart(*parts, video, files, mesh, mesh_shown)


def _wire_photo(handlers: Handlers, photo: PhotoPart, orbit: OrbitPart, subject: gr.State, lifted: gr.State) -> None:
    """A photo is read, then lifted and looked at; so it is again whenever its camera or the orbit's path changes."""
    quick: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 2, "concurrency_id": "quick"}
    read = {"inputs": [photo.photo, photo.matte, photo.mask]}
    found = [subject, photo.shown, photo.azimuth, photo.elevation]
    look = {
        "fn": handlers.look,
        "inputs": [subject, photo.azimuth, photo.elevation, orbit.views, orbit.height, lifted],
        "outputs": [lifted, photo.live, photo.path],
    }
    photo.matte.change(lambda matte: gr.update(visible=matte == "mask"), photo.matte, photo.mask, queue=False)
    for event in (photo.photo.change, photo.matte.change, photo.mask.change):
        event(handlers.read, **read, outputs=found, **quick).then(**look, **quick)
    for slider in (photo.azimuth, photo.elevation, orbit.views, orbit.height):
        slider.input(**look, trigger_mode="always_last", **quick)
    photo.turn.click(handlers.turn, photo.azimuth, photo.azimuth, queue=False).then(**look, **quick)


def _wire_orbit(handlers: Handlers, photo: PhotoPart, orbit: OrbitPart, subject: gr.State, made: gr.State) -> None:
    """One orbit or mesh is made at a time; the others wait in a queue, which the status shows."""
    slow: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model", "show_progress": "minimal"}
    chosen = [orbit.plan, orbit.views, orbit.height, orbit.steps, orbit.seed]
    shown = [orbit.status, orbit.strip, orbit.turntable, orbit.video, orbit.files, orbit.mesh, orbit.mesh_shown]
    run = orbit.generate.click(
        handlers.generate,
        [subject, photo.azimuth, photo.elevation, *chosen, made],
        [made, *shown],
        show_progress_on=[orbit.status],
        **slow,
    )
    orbit.stop.click(lambda: "", outputs=orbit.status, cancels=[run], queue=False)
    outputs = [orbit.status, orbit.mesh_shown, orbit.files]
    orbit.mesh.click(handlers.mesh, made, outputs, show_progress_on=[orbit.status], **slow)
