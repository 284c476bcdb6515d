"""The training loop's promises: exact resume, equality over processes and accumulation, frozen parts, skipped steps."""

import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from tiny import ray_cast, ring_cameras, toy_car

import train_multiview
from mvgenvs.config import TrainConfig, load_config
from mvgenvs.data.sampling import Batch
from mvgenvs.errors import UserError
from mvgenvs.parts import PARTS, build_parts, checkpoints, find_pipeline, load_parts
from mvgenvs.training import checkpoint, loop
from mvgenvs.training.draws import Draws
from mvgenvs.training.losses.field import render_images
from mvgenvs.training.objective import Objective
from mvgenvs.training.validation import geometry_figures
from mvgenvs.views import UNKNOWN, stack

REPO = Path(__file__).parents[1]
DATA = REPO / "tests/data/opencars_sample"
TINY = {
    "data.root": str(DATA),
    "data.size": "32",
    "codec.channels": "8",
    "codec.refiner_width": "16",
    "nerf.encoder_widths": "[16, 16, 16]",
    "nerf.volume_depth": "4",
    "nerf.num_coarse": "4",
    "nerf.num_fine": "4",
    "denoiser.render_size": "8",
    "denoiser.block_out_channels": "[16, 32]",
    "loss.rgb": "1.0",
    "loss.denoise": "1.0",
    "optim.steps": "4",
    "optim.batch": "4",
    "optim.warmup": "1",
    "run.tracker": "none",
    "run.validate_every": "-1",
    "run.checkpoint_every": "2",
    "run.threads": "1",
}


def tiny(output: Path, **changes: str) -> TrainConfig:
    overrides = TINY | {"run.output": str(output)} | {k.replace("__", "."): v for k, v in changes.items()}
    return load_config(None, overrides)


def weights(run: Path) -> dict[str, torch.Tensor]:
    """All averaged weights of a run's newest checkpoint."""
    modules = load_parts(find_pipeline(run)).modules()
    return {f"{name}.{key}": value for name, part in modules.items() for key, value in part.state_dict().items()}


def assert_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run") / "whole"
    assert train_multiview.train(tiny(run), resume=False) == 0
    return run


def test_resume_equals_uninterrupted(tmp_path: Path, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop_after_three(*args: object, **options: object):
        for report in original(*args, **options):
            if report.step == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield report

    original = loop.train
    run = tmp_path / "run"
    monkeypatch.setattr(loop, "train", stop_after_three)
    train_multiview.train(tiny(run), resume=False)
    assert checkpoints(run)[-1].name == "checkpoint-000003", "SIGTERM saves at the step where it came"
    monkeypatch.setattr(loop, "train", original)
    torch.manual_seed(123)  # nothing may hang on the global generator
    train_multiview.train(tiny(run), resume=True)
    assert checkpoints(run)[-1].name == "checkpoint-000004"
    assert_equal(weights(run), weights(uninterrupted))


def test_a_finished_run_has_nothing_left_to_do(uninterrupted: Path) -> None:
    before = [path.stat().st_mtime_ns for path in checkpoints(uninterrupted)]
    assert train_multiview.train(tiny(uninterrupted), resume=True) == 0
    assert [path.stat().st_mtime_ns for path in checkpoints(uninterrupted)] == before


def test_training_changes_what_it_trains(uninterrupted: Path) -> None:
    first, last = (load_parts(folder / "pipeline").modules() for folder in checkpoints(uninterrupted))
    for name in ("nerf", "denoiser"):
        pairs = zip(first[name].parameters(), last[name].parameters(), strict=True)
        changed = [not torch.equal(a, b) for a, b in pairs]
        assert sum(changed) > 0.9 * len(changed)
    assert all(map(torch.equal, first["codec"].parameters(), last["codec"].parameters())), "the codec is frozen"


def test_every_loss_falls_on_one_set(tmp_path: Path) -> None:
    changes = {"loss__mask": "0.1", "loss__reconstruction": "1.0", "run__train": "[codec, nerf, denoiser]"}
    config = tiny(tmp_path, **changes)
    torch.manual_seed(0)
    objective = Objective(build_parts(config), config).train()
    optimizer = torch.optim.Adam([p for p in objective.parameters() if p.requires_grad], lr=5e-3)
    batch = Batch(stack([ray_cast(toy_car(seed), ring_cameras(3)) for seed in range(2)]), 1, [0, 1])
    history = []
    for _ in range(10):
        losses = objective(batch, 0.0)
        objective.total(losses).backward()
        optimizer.step()
        optimizer.zero_grad()
        history.append({name: value.item() for name, value in losses.items()})
    assert set(history[0]) >= {"rgb", "mask", "reconstruction", "denoise"}
    for name, first in history[0].items():
        assert history[-1][name] < 0.8 * first, (name, first, history[-1][name])


def test_accumulation_changes_nothing(tmp_path: Path, uninterrupted: Path) -> None:
    train_multiview.train(tiny(tmp_path / "run", optim__accumulation="2"), resume=False)
    assert_equal(weights(tmp_path / "run"), weights(uninterrupted), tolerance=2e-4)


def test_two_processes_equal_one(tmp_path: Path, uninterrupted: Path) -> None:
    arguments = [f"--{key}={value}" for key, value in (TINY | {"run.output": str(tmp_path / "run")}).items()]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, "train_multiview.py", *arguments], cwd=REPO, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "training on 2 processes" in done.stdout
    assert_equal(weights(tmp_path / "run"), weights(uninterrupted), tolerance=2e-4)


def test_processes_that_do_not_meet_are_refused(tmp_path: Path) -> None:
    """On a CPU `accelerate launch --cpu` starts one process, however many it was asked for."""
    arguments = [f"--{key}={value}" for key, value in (TINY | {"run.output": str(tmp_path / "run")}).items()]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
                "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]  # fmt: skip
    done = subprocess.run(
        [*launcher, "train_multiview.py", *arguments], cwd=REPO, capture_output=True, text=True, timeout=300
    )
    assert done.returncode != 0
    assert "torchrun" in done.stderr
    assert not checkpoints(tmp_path / "run")


@pytest.mark.parametrize("damage", ["", "data: [", "just words", "data: 3"])
def test_a_checkpoint_whose_configuration_is_damaged_is_passed_over(
    tmp_path: Path, uninterrupted: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (checkpoints(run)[-1] / "config.yaml").write_text(damage)
    assert train_multiview.train(tiny(run), resume=True) == 0
    assert "000004 is damaged" in capsys.readouterr().err
    assert_equal(weights(run), weights(uninterrupted))
    for path in checkpoints(run):
        (path / "config.yaml").write_text(damage)
    with pytest.raises(UserError, match="can be read"):
        train_multiview.train(tiny(run), resume=True)


class Program:
    """What makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.mark,)


def test_nothing_in_a_checkpoint_of_others_runs(
    tmp_path: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, mark = tmp_path / "run", tmp_path / "ran"
    shutil.copytree(uninterrupted, run)
    state = checkpoints(run)[-1] / "state"
    files = sorted([*state.glob("*.pkl"), *state.glob("*.bin")])
    assert len(files) == 4, "averages, schedule, optimiser and random states"
    for number, path in enumerate(files):
        whole = path.read_bytes()
        for write in (
            lambda path: path.write_bytes(pickle.dumps(Program(mark))),
            lambda p: torch.save(Program(mark), p),
        ):
            write(path)
            with pytest.raises(checkpoint.DAMAGE):
                checkpoint.check_state(state)
        if number < len(files) - 1:
            path.write_bytes(whole)
    assert train_multiview.train(tiny(run), resume=True) == 0
    assert "000004 is damaged" in capsys.readouterr().err and not mark.exists()


def test_a_checkpoint_with_half_of_any_file_of_its_state_is_passed_over(
    tmp_path: Path, uninterrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(path.name for path in (checkpoints(uninterrupted)[-1] / "state").iterdir() if path.is_file())
    assert any(name.startswith("random_states") for name in names)
    for name in names:
        run = tmp_path / name
        shutil.copytree(uninterrupted, run)
        path = checkpoints(run)[-1] / "state" / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert train_multiview.train(tiny(run), resume=True) == 0
        assert "000004 is damaged" in capsys.readouterr().err, name
        assert_equal(weights(run), weights(uninterrupted))


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_sentence_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_: object) -> None:
        raise error

    run = tmp_path / "run"
    monkeypatch.setattr(checkpoint, "write_state", full)
    with pytest.raises(UserError, match="free some space") as caught:
        train_multiview.train(tiny(run), resume=False)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob(".checkpoint*"))


def test_nonfinite_steps_are_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(self: Objective, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        calls.append(1)
        return original(self, losses) * (torch.nan if len(calls) in bad else 1.0)

    original, calls, bad = Objective.total, [], {2}
    monkeypatch.setattr(Objective, "total", poisoned)
    run = tmp_path / "run"
    train_multiview.train(tiny(run), resume=False)
    assert '"skipped": 1' in (checkpoints(run)[-1] / "step.json").read_text()
    assert all(value.isfinite().all() for value in weights(run).values())

    calls, bad = [], {1, 2, 3}
    with pytest.raises(UserError, match="3 steps in a row"):
        train_multiview.train(tiny(tmp_path / "bad", run__max_nonfinite="3"), resume=False)


def test_a_run_is_not_overwritten(uninterrupted: Path) -> None:
    with pytest.raises(UserError, match="--resume auto"):
        train_multiview.train(tiny(uninterrupted), resume=False)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data__root": "/nowhere"}, "no folder"),
        ({"run__train": "[nerv]"}, "no part"),
        ({"loss__noise_law": "loud"}, "noise_law"),
        ({"optim__batch": "3", "optim__accumulation": "2"}, "multiple"),
        ({"run__init_from": "/nowhere"}, "no mvgenvs pipeline"),
        ({"codec__kind": "zip"}, "codec.kind"),
        ({"denoiser__render_size": "9"}, "render_size"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, changes: dict[str, str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        train_multiview.train(tiny(tmp_path / "run", **changes), resume=False)


def test_codec_field_and_denoiser_are_stages(tmp_path: Path) -> None:
    """Each stage starts from the one before and trains its part alone."""
    stages = {
        "codec": {"loss__reconstruction": "1.0", "loss__rgb": "0.0", "loss__denoise": "0.0"},
        "nerf": {"loss__denoise": "0.0", "loss__rays": "16", "loss__mask": "0.1"},
        "denoiser": {"loss__rgb": "0.0", "loss__noise_draws": "2"},
    }
    before = None
    for part, changes in stages.items():
        run = tmp_path / part
        start = {} if before is None else {"run__init_from": str(before)}
        train_multiview.train(tiny(run, optim__steps="2", run__train=f"[{part}]", **changes, **start), resume=False)
        if before is not None:
            a, b = weights(before), weights(run)
            assert {name.split(".")[0] for name in a if not torch.equal(a[name], b[name])} == {part}
        before = run
    assert set(stages) == set(PARTS)


def test_validation_tells_silhouettes_and_depth() -> None:
    truth = ray_cast(toy_car(0), ring_cameras(2))
    farther = torch.where(truth.depth > 0, truth.depth + 0.1, 0.0)
    found = geometry_figures(farther, truth)
    assert found["nerf_iou"] == pytest.approx(1, abs=0.02)  # of a matte, some pixels at the edges have half
    assert found["nerf_depth_error"] == pytest.approx(0.1, abs=1e-5)
    half = farther.clone()
    half[1] = 0
    assert 0.3 < geometry_figures(half, truth)["nerf_iou"] < 0.7
    assert geometry_figures(half, truth)["nerf_depth_error"] == pytest.approx(0.1, abs=1e-5)
    assert geometry_figures(farther, replace(truth, depth=None)) == {}


@pytest.mark.parametrize(("odds", "shares"), [(0.0, {0.0}), (1.0, {1.0}), (0.5, {0.0, 1.0})])
def test_some_sets_come_without_their_mattes(odds: float, shares: set[float], tmp_path: Path) -> None:
    config = tiny(tmp_path, nerf__matte="true", loss__drop_matte=str(odds), loss__input_noise="0.1")
    objective = Objective(build_parts(config), config)
    views = stack([ray_cast(toy_car(seed), ring_cameras(3)) for seed in range(6)])
    scene = objective._lifted(Batch(views, 1, list(range(6))), Draws(list(range(6)), torch.device("cpu")))
    mattes = scene.images[:, 0, 3]
    untold = (mattes == UNKNOWN).flatten(1).float().mean(dim=1)
    assert set(untold.tolist()) == shares
    assert torch.equal(mattes[untold == 0], views.mask[:, 0, 0][untold == 0]), "noise is the colours' alone"


def test_shrinking_depth_leaves_out_the_background(uninterrupted: Path) -> None:
    """A plane seen by an odd number of pixels: the depth of coarser pixels is the plane's, wherever there is one."""
    objective = Objective(load_parts(find_pipeline(uninterrupted)), tiny(uninterrupted))
    views = ray_cast(toy_car(0), ring_cameras(2))
    plane = torch.zeros_like(views.depth)
    plane[..., 5:18, 3:20] = 1.25
    batched = stack([replace(views, depth=plane)])
    scene = objective.nerf.encode(batched.images[:, :1], batched.cameras.select([0]))
    with torch.no_grad():
        _, targets = render_images(objective.nerf, scene, batched, Draws([0], torch.device("cpu")), 8)
    assert targets.depth.shape[-1] == 8
    on_plane = targets.depth > 0
    assert on_plane.sum() == 2 * 4 * 5  # rows 5-17 touch coarse rows 1-4, columns 3-19 coarse columns 0-4
    torch.testing.assert_close(targets.depth[on_plane], torch.full_like(targets.depth[on_plane], 1.25))
