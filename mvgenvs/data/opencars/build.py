"""Builds a data set: unpacks the sources, renders every object in worker processes, resumes an unfinished build."""

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mvgenvs.cameras import Cameras
from mvgenvs.data.opencars import procedural
from mvgenvs.data.opencars.catalogue import Entry, seed_of
from mvgenvs.data.opencars.categories import CATEGORIES
from mvgenvs.data.opencars.packages import fetch, unpack, version
from mvgenvs.data.opencars.repaint import repainted
from mvgenvs.data.srn_writer import PARTIAL, check_object, clear_partial, write_object
from mvgenvs.errors import UserError
from mvgenvs.files import write_text
from mvgenvs.meshes.renderer import SURFACE, Renderer
from mvgenvs.trajectories import random_views, srn_spiral


@dataclass(frozen=True)
class Recipe:
    """Everything that the bytes of an object depend on, besides its source."""

    category: str = "cars"
    size: int = 128  # pixels, each side
    views: int = 50  # of a train object, in random directions
    format: str = "png"
    sphere: str = "upper"
    repaint: int = 0  # further variants of each train object
    seed: int = 0
    count: int = 0  # number of procedural objects
    focal: float = 0.0  # pixels; 0 is SRN's, 131.25 for a size of 128
    spiral: int = 251  # views of held-out objects; the SRN protocol takes views 64 and 104 as input
    surface: float = SURFACE  # the least opacity of what has a depth


OF_OLD_FOLDERS = {"surface": 0.5}  # values for recipes that were written before the field existed


@dataclass(frozen=True)
class Task:
    """One object to render: an entry as it is (variant 0) or repainted."""

    entry: Entry
    variant: int
    split: str
    version: str

    @property
    def name(self) -> str:
        return self.entry.id + (f"_paint{self.variant}" if self.variant else "")

    def folder(self, recipe: Recipe) -> Path:
        """Its folder, relative to the data set."""
        return Path(f"{recipe.category}_{self.split}", self.name)

    def num_views(self, recipe: Recipe) -> int:
        return recipe.views if self.split == "train" else recipe.spiral


def build(output: Path, packages: Path, recipe: Recipe, only: str = "*", jobs: int = 1) -> int:
    """Renders all objects whose id matches `only` into `output`, and returns how many; finished ones stay untouched.

    Raises `UserError` if `output` belongs to another recipe, a package is not available or damaged, or the disk is
    full. Unreadable objects are skipped, and named in one `UserError` at the end.
    """
    index = output / f"{recipe.category}.json"
    listed = [Path(name) for name in _claim(index, recipe)]  # empty until the packages have been read once
    chosen = [path for path in listed if fnmatchcase(path.name, only)]
    if chosen and all(_finished(output / path) for path in chosen):
        return 0

    roots, versions = unpacked_sources(packages, recipe.category, jobs)
    tasks = list_tasks(recipe, roots, versions)
    _write_json(index, {"recipe": asdict(recipe), "objects": [task.folder(recipe).as_posix() for task in tasks]})
    tasks = [task for task in tasks if fnmatchcase(task.name, only)]
    if not tasks:
        raise UserError(f"no {recipe.category} have an id that matches '{only}': try --only 'torcs_*'")
    todo = [task for task in tasks if not _finished(output / task.folder(recipe))]
    for task in todo:
        check_object(output / task.folder(recipe))
    print(f"{len(tasks)} objects, {len(tasks) - len(todo)} of them finished before", flush=True)
    if todo:
        print(f"rendering on {renderer_name()}", flush=True)

    failures = []
    with tqdm(total=sum(task.num_views(recipe) for task in todo), unit="view", smoothing=0.05) as progress:
        for task, problem in _rendered(todo, recipe, output, jobs):
            failures += [f"{task.name} ({problem})"] if problem else []
            progress.update(task.num_views(recipe))
    clear_partial(output / PARTIAL)
    if failures:
        raise UserError(f"{len(failures)} of {len(tasks)} objects could not be read: {'; '.join(failures)}")
    return len(todo)


def list_tasks(recipe: Recipe, roots: dict[str, Path], versions: dict[str, str]) -> list[Task]:
    """Every object of a category, from the unpacked packages `roots`, in a fixed order."""
    category = CATEGORIES[recipe.category]
    entries = [
        replace(entry, kind=entry.kind or source.kind)
        for source in category.sources
        for entry in source.entries(roots[source.package])
    ]
    if category.generate:
        entries += category.generate(recipe.count, recipe.seed)
    tasks = []
    for entry in entries:
        split = category.split_of(entry.family)
        variants = range(recipe.repaint + 1) if split == "train" else range(1)
        tasks += [Task(entry, variant, split, versions[entry.package]) for variant in variants]
    return tasks


def cameras_of(task: Task, recipe: Recipe) -> Cameras:
    """For training, random directions, different for each object; otherwise the spiral of SRN's test sets."""
    hw = (recipe.size, recipe.size)
    if task.split == "train":
        rng = np.random.default_rng(seed_of(recipe.seed, task.name, "cameras"))
        cameras = random_views(recipe.views, rng, upper=recipe.sphere == "upper", hw=hw)
    else:
        cameras = srn_spiral(recipe.spiral, hw=hw)
    return cameras.with_focal(recipe.focal) if recipe.focal else cameras


def unpacked_sources(folder: Path, category: str, jobs: int) -> tuple[dict[str, Path], dict[str, str]]:
    """The folder of each unpacked package, and its version."""
    sources = CATEGORIES[category].sources
    if not sources:
        return {}, {procedural.PACKAGE: procedural.VERSION}
    members: dict[str, list[str]] = {}  # by package: several sources may each need a part of it
    for source in sources:
        members.setdefault(source.package, []).extend(source.members)
    debs = fetch(list(members), folder)
    versions = {name: version(deb) for name, deb in debs.items()}
    with ThreadPoolExecutor(jobs) as pool:  # threads suffice: decompression releases the interpreter lock
        unpacked = {
            name: pool.submit(unpack, debs[name], wanted, folder / "unpacked" / category / name)
            for name, wanted in members.items()
        }
        with tqdm(unpacked.items(), desc="unpacking", unit="package") as progress:
            return {name: future.result() for name, future in progress}, versions


def _claim(index: Path, recipe: Recipe) -> list[str]:
    """The folders of the objects that `index` lists; none if the packages must be read (again) to know them.

    Raises `UserError` if the index belongs to another recipe.
    """
    mine = asdict(recipe)
    if not index.exists():
        _write_json(index, {"recipe": mine, "objects": []})
    try:
        content = json.loads(index.read_text())
        theirs = asdict(Recipe()) | OF_OLD_FOLDERS | dict(content["recipe"])
        objects = [str(name) for name in content["objects"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index} is damaged: delete it, or choose another --output folder") from error
    for key in ("repaint", "count"):  # more variants and objects do not change existing ones
        if theirs[key] < mine[key]:
            theirs[key], objects = mine[key], []
    if differing := sorted(key for key in mine if theirs.get(key) != mine[key]):
        raise UserError(
            f"{index.parent} holds {recipe.category} built otherwise ({', '.join(differing)} differ): "
            "use the same settings or another --output folder"
        )
    return objects


def _finished(folder: Path) -> bool:
    return (folder / "metadata.json").exists()


def _write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def _rendered(todo: Sequence[Task], recipe: Recipe, output: Path, jobs: int) -> Iterator[tuple[Task, str]]:
    """Renders every task, in `jobs` processes, and yields each with an error message, empty if there was none."""
    if jobs == 1:
        with Renderer(recipe.size) as renderer:
            for task in todo:
                yield task, render_task(task, recipe, output, renderer)
        return
    context = multiprocessing.get_context("spawn")  # OpenGL contexts and threads do not survive a fork
    with ProcessPoolExecutor(jobs, context, _start_worker, (output, recipe)) as pool:
        futures: dict[Future[str], Task] = {pool.submit(_render_in_worker, task): task for task in todo}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise UserError("a process was killed while it rendered: run this again, with fewer --jobs") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def renderer_name() -> str:
    """OpenGL's name of the renderer here. Raises `UserError` if there is none."""
    with Renderer(8) as renderer:
        return renderer.device


# Kept by a worker process from object to object: opening OpenGL takes as long as some views.
_context: tuple[Path, Recipe, Renderer]


def _start_worker(output: Path, recipe: Recipe) -> None:
    global _context
    _context = output, recipe, Renderer(recipe.size)


def _render_in_worker(task: Task) -> str:
    output, recipe, renderer = _context
    return render_task(task, recipe, output, renderer)


def render_task(task: Task, recipe: Recipe, output: Path, renderer: Renderer) -> str:
    """Renders one object and writes it; returns "", or an error message if the object's own files are at fault.

    Raises `UserError` if it cannot be written, since then no other object could be either.
    """
    entry = task.entry
    try:
        mesh = entry.load()
    except (UserError, OSError) as error:
        return str(error).rstrip(".")
    seed = seed_of(recipe.seed, task.name)
    if task.variant:
        mesh = repainted(mesh, np.random.default_rng(seed))
    cameras = cameras_of(task, recipe)
    views = renderer.render(mesh.normalised(), cameras)
    metadata = {
        "id": task.name,
        "family": entry.family,
        "category": recipe.category,
        **({"kind": entry.kind} if entry.kind else {}),
        "split": task.split,
        "source": {"package": entry.package, "version": task.version, "file": entry.file},
        "licence": entry.licence,
        "attribution": entry.attribution,
        **({} if entry.front else {"front": False}),
        "triangles": mesh.num_triangles,
        "repainted": task.variant > 0,
        "seed": seed,
    }
    write_object(output / task.folder(recipe), output / PARTIAL, views, cameras, recipe.format, metadata)
    return ""
