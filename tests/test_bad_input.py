"""A table of bad input to every command and to Python: one sentence, exit code 2, and no file is written or changed.

Each line is what follows a command, and words that the sentence holds. Other tables stand with their subjects, such as
`test_infer_mistakes.py`, `test_recipe_mistakes.py` and `evaluation/test_score_mistakes.py`.
"""

import importlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bad_files import write_bad_files
from repeating import ROOT
from tiny import inputs, ring_cameras

from mvgenvs.cli import run_script
from mvgenvs.config import DataConfig, OptimConfig
from mvgenvs.errors import UserError
from mvgenvs.pipeline import MultiViewPipeline

# By command: what comes before and after each line, and the lines.
TABLE: dict[str, tuple[str, str, str]] = {
    "infer_multiview": ("", "--output out", """
        --image none.png                                => no such image
        --image void                                    => folder
        --image text.png                                => not an image
        --image empty.png                               => not an image
        --image cut.png                                 => truncated
        --image bomb.png                                => too large
        --image one.png                                 => too small
        --image black.png                               => black
        --image white.png                               => white
        --image clear.png                               => no object
        --image car.png --camera none.json              => no such camera file
        --image car.png --camera void                   => cannot be read
        --image car.png --camera car.png                => not JSON
        --image car.png --camera latin.json             => not JSON
        --image car.png --camera deep.json              => not JSON
        --image car.png --camera list.json              => must hold an object
        --image car.png --camera no_pose.json           => 'transform_matrix'
        --image car.png --camera empty_frames.json      => 'frames'
        --image car.png --camera fisheye.json           => fisheye
        --image car.png --camera sphere.json            => EQUIRECTANGULAR
        --image car.png --camera distorted.json         => distortion
        --image car.png --camera rolling.json           => rolling_shutter
        --image car.png --camera words.json             => 'fl_x'
        --image car.png --camera negative.json          => 'fl_x'
        --image car.png --camera nan.json               => 'fl_x'
        --image car.png --camera zero.json              => 'w'
        --image car.png --camera huge.json              => 'w'
        --image car.png --camera far.json               => 'transform_matrix'
        --image car.png --camera sheared.json           => 'transform_matrix'
        --image car.png --camera two.json               => holds 2 cameras
        --image car.png --camera oblong.json            => is for images of 128x64
        --image car.png --trajectory oblong.json        => must be equal
        --image car.png --trajectory void               => neither one of
        --image car.png --trajectory rolling.json       => rolling_shutter
        --image car.png --matte text.png                => not an image
        --image car.png --matte one.png                 => one.png
        --image car.png --num-views 1e12                => --num-views
        --image car.png --num-views 20000000            => --num-views
        --image car.png --num-views 1.5                 => --num-views
        --image car.png --num-views=                    => --num-views
        --image car.png --elevation inf                 => --elevation
        --image car.png --azimuth nan                   => --azimuth
        --image car.png --steps 1e30                    => --steps
        --image car.png --steps -3                      => --steps
        --image car.png --guidance inf                  => --guidance
        --image car.png --guidance 1e30                 => --guidance
        --image car.png --churn 1e30                    => --churn
        --image car.png --sigma-max nan                 => --sigma-max
        --image car.png --block 0                       => --block
        --image car.png --block 1000000                 => --block
        --image car.png --anchors x                     => --anchors
        --image car.png --anchor-level murky            => anchor_level
        --image car.png --renoise never                 => renoise
        --image car.png --seed 1.5                      => --seed
        --image car.png --seed 99999999999999999999     => --seed
        --image car.png --size -8                       => --size
        --image car.png --size 1000000                  => --size
        --image car.png --dtype float8                  => --dtype
        --image car.png --device cuda:99                => --device
        --image car.png --export obj                    => --export
        --image car.png --export glb --num-views 1      => --export
        --image car.png --checkpoint void               => no mvgenvs pipeline
        --image car.png --checkpoint fake               => not an mvgenvs pipeline
        --image car.png --checkpoint half               => not an mvgenvs pipeline
        --image car.png --attention-backend magic       => magic
        --image car.png --sampler dpmpp-2m --churn 3    => no churn
        --image car.png --colour                        => --colour
    """),
    "train_multiview": ("", "--run.output out", """
        --config none.yaml                              => cannot read
        --config void                                   => cannot read
        --config latin.yaml                             => cannot read
        --config broken.yaml                            => not valid YAML
        --config bomb.yaml                              => aliases
        --config list.yaml                              => must hold sections
        --config text.yaml                              => must hold sections
        --config number.yaml                            => must hold fields
        --config typo.yaml                              => did you mean
        --config section.yaml                           => did you mean
                                                        => nothing to learn
        --config good.yaml --data.root none             => no folder
        --config good.yaml --data.root void             => no data set
        --config good.yaml --data.root capture          => not JSON
        --config good.yaml --data.root data --data.category boats => boats
        --config good.yaml --data.sources x             => sources
        --config good.yaml --data.sources [data=-1]     => above 0
        --config good.yaml --data.sources [data=x]      => a number
        --config good.yaml --data.size 0                => data.size
        --config good.yaml --data.size 1e9              => data.size
        --config good.yaml --data.num_views 1           => data.max_known
        --config good.yaml --data.recolour 2            => data.recolour
        --config good.yaml --data.known_odds [-1]       => data.known_odds
        --config good.yaml --optim.steps 0              => optim.steps
        --config good.yaml --optim.steps -3             => optim.steps
        --config good.yaml --optim.steps 2.5            => optim.steps
        --config good.yaml --optim.steps 2024-99-99     => YAML
        --config good.yaml --optim.lr nan               => optim.lr
        --config good.yaml --optim.lr .inf              => optim.lr
        --config good.yaml --optim.lr -1                => optim.lr
        --config good.yaml --optim.ema 2                => optim.ema
        --config good.yaml --optim.betas [0.9]          => two numbers
        --config good.yaml --optim.accumulation -1      => optim.accumulation
        --config good.yaml --optim.clip 0               => optim.clip
        --config good.yaml --optim.kind sgd             => adamw
        --config good.yaml --loss.rgb -1                => loss.rgb
        --config good.yaml --loss.rays -5               => loss.rays
        --config good.yaml --loss.drop_condition 2      => loss.drop_condition
        --config good.yaml --loss.noise_law loud        => loss.noise_law
        --config good.yaml --nerf.fusion max            => nerf.fusion
        --config good.yaml --nerf.encoder_widths [8]    => three numbers
        --config good.yaml --nerf.world_grid [1,1,1]    => nerf.world_grid
        --config good.yaml --run.train [nerv]           => nerv
        --config good.yaml --data.root data --run.init-from none         => none
        --config good.yaml --run.seed -1                => run.seed
        --config good.yaml --run.mixed_precision fp4    => run.mixed_precision
        --config good.yaml --run.validate_every -2      => run.validate_every
        --config good.yaml --optim.steps [              => YAML
        --config good.yaml --resume never               => --resume
        --optim.stesp 3                                 => --optim.stesp
    """),
    "train_multiview recipe": ("", "--data data --output out", """
        none.yaml                                       => cannot read
        bomb.yaml                                       => aliases
        list.yaml                                       => must hold
        recipe.yaml                                     => no stages
        recipe.yaml --minutes 0                         => --minutes
        recipe.yaml --minutes nan                       => --minutes
        recipe.yaml --minutes 1e30                      => --minutes
        recipe.yaml --resume never                      => --resume
    """),
    "train_multiview export": ("", "--output out", """
        void                                            => no mvgenvs pipeline
        fake                                            => not an mvgenvs pipeline
        half                                            => not an mvgenvs pipeline
        fake --steps 0                                  => --steps
        fake --guidance nan                             => --guidance
        fake --render-sigma -1                          => --render-sigma
    """),
    "train_multiview refine": ("", "--data data --output out", """
        void                                            => no mvgenvs pipeline
        half                                            => not an mvgenvs pipeline
        bundled --sets 0                                => --sets
        bundled --steps -1                              => --steps
        bundled --seed -1                               => --seed
    """),
    "train_multiview camera": ("", "--output out", """
        --data none                                     => no folder
        --data void                                     => no data set
        --data data=0                                   => above 0
        --data data --steps 1                           => --steps
        --data data --minutes inf                       => --minutes
        --data data --seed x                            => --seed
    """),
    "train_multiview estimate": ("", "", """
        --config typo.yaml                              => did you mean
        --config good.yaml --optim.batch 0              => optim.batch
        --config good.yaml --denoiser.network cnn       => denoiser.network
        --config good.yaml --nerf.encoder_widths [7,7,7] => does not make a model
        --config good.yaml --codec.kind zip             => codec.kind
        --config good.yaml --model.kind gan             => model.kind
    """),
    "eval.run": ("--data data", "--output out", """
        --checkpoint void                               => no mvgenvs pipeline
        --checkpoint half                               => not an mvgenvs pipeline
        --split dev                                     => --split
        --inputs 99                                     => --inputs
        --samples 0                                     => --samples
        --seed -1                                       => --seed
        --guidance 1e30                                 => --guidance
        --lpips-nets resnet                             => --lpips-nets
        --device tpu                                    => --device
    """),
    "eval.score": ("", "--output out", """
        none                                            => no folder
        void                                            => found no cameras
        capture                                         => not JSON
        data --metrics fd                               => nothing to measure
        data --sequence twisted                         => --sequence
        car.png                                         => no folder
    """),
    "eval.compare": ("", "", """
        none                                            => nothing to compare
        none void                                       => none
        void --method joint --against nerf              => void
        void --against nerf                             => --method
    """),
    "eval.study": ("", "--output out", """
        magic                                           => magic
        levels --data none                              => none
        levels --data data --num-objects 0              => --num-objects
        levels --data data --seed -1                    => --seed
        levels --data data --checkpoint void            => no mvgenvs pipeline
    """),
    "eval.readme": ("", "", """
        void                                            => void
        list.json                                       => list.json
        none.md                                         => none.md
    """),
    "eval.ablations": ("--data data", "--output out", """
        --workers 0                                     => --workers
        --group magic                                   => --group
    """),
    "eval.srn": ("", "--output out", """
        --archive none.zip                              => no archive
        --archive car.png                               => cannot unpack
        --archive void                                  => no data set
        --archive data --inputs 3                       => --inputs
        --archive data --num-objects 0                  => --num-objects
    """),
    "mvgenvs.data.render": ("", "--output out", """
        none.obj                                        => no mesh
        void                                            => format
        text.obj                                        => no faces
        text.ac                                         => not an AC3D
        text.glb                                        => damaged
        lost.obj                                        => vertex
        car.png                                         => format
        car.obj --num-views 0                           => --num-views
        car.obj --size 20000                            => --size
        car.obj --elevation nan                         => --elevation
        car.obj --azimuth inf                           => --azimuth
        car.obj --seed -1                               => --seed
        car.obj --trajectory none.json                  => no such camera file
        car.obj --trajectory fisheye.json               => fisheye
        car.obj --up=+y --front=-y                      => perpendicular
        car.obj --format bmp                            => --format
        car.obj car.obj                                 => two meshes
    """),
    "mvgenvs.data.opencars.__main__": ("", "--output out", """
        --category boats                                => --category
        --size 4                                        => --size
        --focal inf                                     => --focal
        --count 3                                       => --count
        --category procedural-cars                      => --count
        --seed -1                                       => --seed
        --jobs 0                                        => --jobs
        --views 0                                       => --views
        --repaint -1                                    => --repaint
    """),
    "mvgenvs.data.pack": ("", "--output out", """
        none                                            => no folder
        void                                            => no data set
        capture                                         => not JSON
        data --size 0                                   => --size
        data --split dev                                => --split
        data --category boats                           => boats
    """),
    "mvgenvs.data.compact": ("", "--output out", """
        pack none                                       => no folder
        pack data --views 0                             => --views
        pack data --quality 101                         => --quality
        pack data --split val                           => no split
        expand none.safetensors                         => damaged or missing
        expand car.png                                  => damaged or missing
        squeeze data                                    => squeeze
    """),
    "mvgenvs.data.shards": ("", "--output out", """
        none                                            => no folder
        data --shards 0                                 => --shards
        data --shards 9                                 => at most as many
        data --size 1e9                                 => --size
        data --url pipe:true                            => no address
        data --url ../elsewhere                         => no address
    """),
    "mvgenvs.app.__main__": ("", "", """
        --port 0                                        => --port
        --port 99999                                    => --port
        --prot 3                                        => --prot
    """),
}  # fmt: skip


def rows() -> list[tuple[str, str, str]]:
    """Command, its words, what the sentence holds."""
    found = []
    for command, (before, after, lines) in TABLE.items():
        for line in filter(str.strip, lines.splitlines()):
            words, says = line.split("=>")
            found.append((command, " ".join(filter(None, (before, words.strip(), after))), says.strip()))
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bad_files(tmp_path_factory.mktemp("files"))


def listing(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")
    }


@pytest.mark.parametrize(("command", "words", "says"), rows())
def test_bad_input_is_one_sentence_and_writes_nothing(
    command: str,
    words: str,
    says: str,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module, _, task = command.partition(" ")
    monkeypatch.chdir(files)
    before = listing(files)
    main: Callable[[list[str]], int | None] = importlib.import_module(module).main
    with pytest.raises(SystemExit) as ended:
        run_script(lambda: main([*task.split(), *shlex.split(words)]), shares_work=False)
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert [line for line in said if line.startswith("error: ")] == said[-1:]
    assert "Traceback" not in "".join(said)
    assert says in said[-1]
    assert said[-1].endswith(".")
    assert listing(files) == before


def test_there_are_enough() -> None:
    assert len(rows()) >= 200
    assert len({(command, words) for command, words, _ in rows()}) == len(rows())


@pytest.mark.parametrize("number", [70, 190])
def test_processes_say_the_same(number: int, files: Path) -> None:
    command, words, says = rows()[number]
    module, _, task = command.partition(" ")
    result = subprocess.run(
        [sys.executable, "-m", module.removesuffix(".__main__"), *task.split(), *shlex.split(words)],
        cwd=files, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert says in last


# Python (wrong types never get as far in the tests, where beartype checks every call: see test_ranges.py)

IMAGES: torch.Tensor = inputs()["images"]


def ask(pipeline: MultiViewPipeline, **changes: object) -> object:
    return pipeline(**(inputs() | {"num_inference_steps": 1} | changes))


def spoiled(value: float, matrix: str = "c2w"):
    """Target cameras with one number changed."""
    cameras = inputs()["target_cameras"]
    getattr(cameras, matrix)[0, 0, 0, 0] = value
    return cameras


ASKED: dict[str, tuple[Callable[[MultiViewPipeline], object], str]] = {
    "numpy": (lambda p: ask(p, images=IMAGES.numpy()), "must be a tensor"),
    "bytes": (lambda p: ask(p, images=(IMAGES * 255).byte()), "divide them by 255"),
    "0 to 255": (lambda p: ask(p, images=IMAGES * 255), "must be in"),
    "-1 to 1": (lambda p: ask(p, images=IMAGES * 2 - 1), "must be in"),
    "NaN": (lambda p: ask(p, images=IMAGES * float("nan")), "must be in"),
    "infinite": (lambda p: ask(p, images=IMAGES + float("inf")), "must be in"),
    "no batch": (lambda p: ask(p, images=IMAGES[0]), "must be a tensor of shape"),
    "two channels": (lambda p: ask(p, images=IMAGES[:, :, :2]), "must be a tensor of shape"),
    "other size": (lambda p: ask(p, images=IMAGES[..., :16]), "pixels"),
    "no cameras": (lambda p: ask(p, cameras=None), "their cameras"),
    "more cameras": (lambda p: ask(p, cameras=ring_cameras(7, 32).batched()), "their cameras"),
    "unbatched targets": (lambda p: ask(p, target_cameras=ring_cameras(2, 32)), "batch axis"),
    "NaN pose": (lambda p: ask(p, target_cameras=spoiled(float("nan"))), "finite"),
    "infinite focal length": (lambda p: ask(p, target_cameras=spoiled(float("inf"), "K")), "finite"),
    "no focal length": (lambda p: ask(p, target_cameras=spoiled(0.0, "K")), "above 0"),
    "unconditional with images": (lambda p: ask(p, unconditional=True), "take no images"),
    "no steps": (lambda p: ask(p, num_inference_steps=0), "num_inference_steps"),
    "steps without end": (lambda p: ask(p, num_inference_steps=10**12), "num_inference_steps"),
    "guidance": (lambda p: ask(p, guidance_scale=1e30), "guidance_scale"),
    "churn": (lambda p: ask(p, churn=float("nan")), "churn"),
    "plan": (lambda p: ask(p, plan="random"), "plan"),
    "block": (lambda p: ask(p, block=-1), "block"),
    "sampler": (lambda p: ask(p, sampler="magic"), "sampler"),
    "unknown option": (lambda p: ask(p, stpes=3), "did you mean"),
    "output": (lambda p: ask(p, output_type="jpeg"), "output_type"),
    "generators": (lambda p: ask(p, generator=[torch.Generator()] * 3), "generators"),
    "keyword": (lambda p: MultiViewPipeline.from_pretrained("bundled", colour=1), "colour"),
    "format": (lambda p: MultiViewPipeline.from_pretrained("bundled", torch_dtype=torch.float64), "torch_dtype"),
    "steps of a config": (lambda p: OptimConfig(steps=0), "optim.steps"),
    "known views of a config": (lambda p: DataConfig(min_known=3, max_known=2), "data.min_known"),
}


@pytest.mark.parametrize("name", ASKED)
def test_python_is_answered_in_one_sentence(name: str, pipeline: MultiViewPipeline) -> None:
    call, says = ASKED[name]
    with pytest.raises(UserError) as caught:
        call(pipeline)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("value", "says"), [(float("nan"), "not finite"), (-9.0, "black")])
def test_views_that_show_nothing_are_errors(
    value: float, says: str, pipeline: MultiViewPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = type(pipeline.codec).decode
    monkeypatch.setattr(type(pipeline.codec), "decode", lambda *a, **k: torch.full_like(decode(*a, **k), value))
    with pytest.raises(UserError, match=says):
        ask(pipeline)
