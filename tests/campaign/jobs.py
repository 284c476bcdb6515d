"""The commands that the campaign disturbs, on tiny models, and the part of what they write that must be the same."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from test_training import DATA, REPO, TINY
from tiny import tiny_pipeline
from tiny_data import SIZE, toy_views, write_capture, write_opencars
from tiny_recipe import tiny_recipe

import eval.evaluation
import infer_multiview
import mvgenvs.generation
import mvgenvs.training.recipe
import train_multiview
from eval import run as evaluation
from eval import score
from mvgenvs.data.opencars import build
from mvgenvs.data.sampling import TrainingSets
from mvgenvs.data.scenes import open_scenes
from mvgenvs.folders import OwnFolder
from mvgenvs.nerf import model
from mvgenvs.parts import checkpoints
from mvgenvs.training.checkpoint import save_fp16

LAZY = (eval.evaluation, mvgenvs.generation, mvgenvs.training.recipe)  # imported once, not in each child
torch.set_num_threads(1)
model.CELL = 0.1  # coarse, so that a step takes little time
MANY_VIEWS = 1000
Digest = dict[str, str]


@dataclass(frozen=True)
class Job:
    """A command, run with its output in a folder, and what must be equal whether or not it was disturbed."""

    run: Callable[[Path], object]
    digest: Callable[[Path], Digest]


def jobs(work: Path) -> dict[str, Job]:
    """All of them, by name. What they start from is written to `work`."""
    pipeline = work / "pipeline"
    made = tiny_pipeline()
    made.codec.fit(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    save_fp16(made, pipeline)
    (work / "recipe.yaml").write_text(yaml.safe_dump(tiny_recipe(), sort_keys=False))
    car = ["--image", str(REPO / "assets/car.png"), "--camera", str(REPO / "assets/car.json")]
    infer = [*car, "--checkpoint", str(pipeline), "--num-views", "7", "--block", "2", "--steps", "2"]
    data = write_opencars(work / "data", {"test": 2}, views=26)
    evaluate = ["--checkpoint", str(pipeline), "--data", str(data), "--split", "test", "--metrics", "--lpips-nets"]
    evaluate += ["--methods", "nerf", "joint", "truth"]
    return {
        "train": Job(lambda out: trained(out, {"optim.steps": "6"}), digest_of_run),
        "renderings": Job(lambda out: trained(out, rendering(pipeline)), digest_of_run),
        "recipe": Job(
            lambda out: train_multiview.main(
                ["recipe", str(work / "recipe.yaml"), "--data", str(DATA), "--output", str(out)]
            ),
            lambda out: weights(out / "pipeline", "pipeline"),
        ),
        "data": Job(built, lambda out: files(out, lambda name: True)),
        "infer": Job(lambda out: infer_multiview.main([*infer, "--output", str(out)]), digest_of_views),
        "eval": Job(lambda out: evaluation.main([*evaluate, "--output", str(out)]), digest_of_evaluation),
    }


def large_jobs(work: Path) -> dict[str, Job]:
    """What is done with a scene of many views, whose memory is measured."""
    scene = write_capture(work / "capture", toy_views(1, MANY_VIEWS))
    shutil.rmtree(scene / "depth")
    transforms = scene / "transforms.json"
    content = json.loads(transforms.read_text())
    for frame in content["frames"]:
        del frame["depth_file_path"]
    transforms.write_text(json.dumps(content))
    scoring = [str(scene), "--metrics", "consistency", "--device", "cpu"]
    return {
        "1,000 views, read": Job(lambda out: read_views(scene, out), lambda out: files(out, lambda name: True)),
        "1,000 views, scored": Job(
            lambda out: score.main([*scoring, "--output", str(out)]), lambda out: files(out, lambda name: False)
        ),
    }


def read_views(scene: Path, out: Path) -> int:
    """As training reads them: all of a scene, and then sets of a few."""
    scenes = open_scenes(scene, "train", SIZE)
    sets = TrainingSets(scenes, 4, (1, 1), 8, 0, 8)
    for index in range(8):
        assert sets[index].views.num_views == 4
    out.mkdir()
    (out / "read").write_text(str(scenes.load(0).num_views))
    return 0


def trained(out: Path, changes: dict[str, str]) -> int:
    settings = TINY | {"run.output": str(out), "run.checkpoint_every": "1", "optim.batch": "2"} | changes
    return train_multiview.main([*(f"--{key}={value}" for key, value in settings.items()), "--resume=auto"])


def with_workers(out: Path) -> int:
    """The job "train" with processes that prepare its data."""
    return trained(out, {"optim.steps": "6", "data.workers": "1"})


def rendering(pipeline: Path) -> dict[str, str]:
    """A stage that renders its training sets before its first step."""
    return {
        "data.renderings": "8", "loss.rgb": "0", "run.train": "[denoiser]", "run.init_from": str(pipeline),
        "run.init_parts": "[codec, nerf]", "optim.steps": "3", "denoiser.fit_prior": "false",
    }  # fmt: skip


def built(out: Path) -> int:
    """Six procedural objects, of few views even where they are held out."""
    recipe = build.Recipe("procedural-shapes", size=32, views=2, count=6, spiral=2)
    with OwnFolder(out):
        return 0 * build.build(out, out / "packages", recipe)


def files(folder: Path, counts: Callable[[str], bool]) -> Digest:
    """Hashes of all files but hidden ones, which are nobody's results."""
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and counts(name := path.relative_to(folder).as_posix()) and "/." not in f"/{name}"
    }


def weights(folder: Path, name: str) -> Digest:
    """Hashes of every tensor in the safetensors below a folder."""
    return {
        f"{name}/{path.relative_to(folder).as_posix()}/{key}": tensor_hash(value)
        for path in sorted(folder.rglob("*.safetensors"))
        for key, value in load_file(path).items()
    }


def tensor_hash(value: torch.Tensor) -> str:
    return hashlib.sha256(value.detach().cpu().contiguous().float().numpy().tobytes()).hexdigest()


def digest_of_run(out: Path) -> Digest:
    """The names of all checkpoints; weights, averages and the optimiser's state of the newest; what was rendered."""
    found = checkpoints(out)
    newest = found[-1]
    digest = weights(newest, "newest") | {"checkpoints": " ".join(path.name for path in found)}
    digest["step"] = (newest / "step.json").read_text()
    for path in sorted((newest / "state").glob("*")):
        if path.suffix in (".bin", ".pkl") and "random" not in path.name:
            digest |= tensors_of(torch.load(path, weights_only=False), path.name)
    return digest | files(
        out, lambda name: name.startswith("renderings/") and not name.endswith("plan.json")
    )  # of times


def tensors_of(value: Any, name: str) -> Digest:
    """Hashes of all tensors in nested dictionaries and lists."""
    if isinstance(value, torch.Tensor):
        return {name: tensor_hash(value)}
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else []
    return {key: found for k, part in parts for key, found in tensors_of(part, f"{name}/{k}").items()}


def digest_of_views(out: Path) -> Digest:
    """All files; of run.json what is not a time or a memory."""
    record = json.loads((out / "run.json").read_text())
    told = {name: record[name] for name in ("settings", "notes", "versions", "made_with")}
    for settings in (told["settings"], told["made_with"]):
        settings.pop("output", None)
    return files(out, lambda name: name != "run.json") | {"run.json": json.dumps(told, sort_keys=True)}


def digest_of_evaluation(out: Path) -> Digest:
    """All figures and pictures; the report names its folder, and when it was written."""
    metrics = json.loads((out / "metrics.json").read_text())
    told = {name: metrics[name] for name in ("settings", "objects", "table")}
    return files(out, lambda name: name not in ("metrics.json", "report.md")) | {"metrics.json": json.dumps(told)}
