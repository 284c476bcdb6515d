"""Studies of a model: trials share views, noise and renderings, resume, and come out in a table."""

import json
from pathlib import Path

import pytest
import torch
from tiny import ring_cameras, tiny_parts, write_srn

from eval import study
from eval.metrics.image import psnr
from eval.metrics.suite import MetricSuite
from eval.protocols import ORBIT_TARGETS
from eval.report import plots
from eval.studies import plans, steps
from eval.studies.cached_nerf import CachedNeRF
from eval.studies.trials import REFERENCES, Trial, run_trials
from mvgenvs.errors import UserError
from mvgenvs.folders import OwnFolder
from mvgenvs.nerf.model import ViewNeRF
from mvgenvs.pipeline import MultiViewPipeline

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_srn(tmp_path_factory.mktemp("data"), {"val": 2}, views=ORBIT_TARGETS + 1)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    pipeline = MultiViewPipeline.from_parts(tiny_parts(), default_steps=1, default_guidance=1.0)
    pipeline.codec.fit(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    folder = tmp_path_factory.mktemp("checkpoint")
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture
def calls(monkeypatch) -> list[dict]:
    """What each call of the pipeline was asked for; no networks measure, and no plots are drawn."""
    asked: list[dict] = []
    call = MultiViewPipeline.__call__

    def recorded(self, *args, **options):
        asked.append({**options, "first": options["generator"].initial_seed(), "views": args[2].num_views})
        return call(self, *args, **options)

    monkeypatch.setattr(MultiViewPipeline, "__call__", recorded)
    monkeypatch.setattr(study, "load_suite", lambda *args, **options: MetricSuite())
    monkeypatch.setattr(plots, "can_plot", lambda: False)
    return asked


@pytest.fixture
def words(data, checkpoint, tmp_path):
    return lambda name, *more: [
        name, "--checkpoint", str(checkpoint), "--data", str(data), "--output", str(tmp_path / name), *more
    ]  # fmt: skip


@pytest.fixture
def rendered(monkeypatch) -> list[int]:
    """The number of cameras of each rendering that is computed."""
    counted: list[int] = []
    render = ViewNeRF.render
    monkeypatch.setattr(ViewNeRF, "render", lambda *args: counted.append(args[2].num_views) or render(*args))
    return counted


def test_renderings_are_made_once_and_are_the_same(checkpoint, rendered):
    plain, cameras = MultiViewPipeline.from_pretrained(checkpoint).nerf, ring_cameras(3)
    nerf = CachedNeRF.of(plain)
    images = torch.rand(1, 1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    known, other = cameras.select([0]).batched(), images.flip(-1)
    expected = plain.render(plain.encode(images, known), cameras.select([1]).batched()).features
    rendered.clear()
    with nerf.caching(images) as cache:
        for view in (1, 2, 1, 1):
            looked = nerf.render(nerf.encode(images.clone(), known), cameras.select([view]).batched())
        assert torch.equal(looked.features, expected)
        assert len(rendered) == 2
        assert cache.seconds_saved > 0
        saved = cache.seconds_saved
        for _ in range(2):
            assert not torch.equal(
                nerf.render(nerf.encode(other, known), cameras.select([1]).batched()).features, expected
            )
        assert len(rendered) == 4, "scenes of other images are not kept"
        assert cache.seconds_saved == saved
    nerf.render(nerf.encode(images, known), cameras.select([1]).batched())
    assert len(rendered) == 5, "and outside nothing is"


def test_trials_share_the_renderings(words, calls, rendered, monkeypatch):
    """The pipeline gives known views to the NeRF with their mattes, which are recognised too."""
    monkeypatch.setattr(steps, "GRID", {"euler": ((1, 5), {})})
    monkeypatch.setattr(steps, "REFERENCE", "euler, 5 steps")
    study.main(words("steps", "--num-objects", "1"))
    assert len(calls) == 3, "the NeRF alone and two trials"
    assert sum(rendered) == steps.VIEWS + 1, "each target once, and the input, which is an anchor"


def test_few_steps(words, calls, monkeypatch, tmp_path, capsys):
    grid = {"euler": ((1, 5), {}), "heun": ((2,), {"sampler": "heun"}), "near": ((1,), {"start": "render"})}
    monkeypatch.setattr(steps, "GRID", grid)
    monkeypatch.setattr(steps, "REFERENCE", "euler, 5 steps")
    study.main(words("steps"))
    _, *sampled = calls[:5]
    assert len(calls) == 10, "the NeRF alone and four trials, of two objects"
    assert [c["num_inference_steps"] for c in sampled] == [1, 5, 2, 1]
    assert [c["sampler"] for c in sampled] == ["euler", "euler", "heun", "euler"]
    assert [c.get("start") for c in sampled] == [None, None, None, "render"]
    assert {c["views"] for c in calls} == {steps.VIEWS}
    assert {c["first"] for c in calls[:5]} != {c["first"] for c in calls[5:]}
    assert all(len({c["first"] for c in part}) == 1 for part in (calls[:5], calls[5:])), "one noise per object"
    found = json.loads((tmp_path / "steps" / "steps.json").read_text())["table"]
    assert [found[name]["evaluations"] for name in ("euler, 1 steps", "euler, 5 steps", "heun, 2 steps")] == [1, 5, 3]
    assert found["euler, 1 steps"]["psnr"] != found["near, 1 steps"]["psnr"]
    assert all(found[trial.name]["seconds"] > 0 for trial in steps.trials())
    text = (tmp_path / "steps" / "steps.md").read_text()
    assert text in capsys.readouterr().out
    assert "| heun, 2 steps | 3 |" in text

    again = list(calls)
    study.main(words("steps"))
    assert calls == again, "all is there"
    (tmp_path / "steps" / "heun_2_steps" / "objects" / "val-1.json").unlink()
    before = json.loads((tmp_path / "steps" / "steps.json").read_text())["table"]["heun, 2 steps"]["psnr"]
    study.main(words("steps"))
    assert len(calls) == len(again) + 1
    assert json.loads((tmp_path / "steps" / "steps.json").read_text())["table"]["heun, 2 steps"]["psnr"] == before
    with pytest.raises(UserError, match="other settings"):
        study.main(words("steps", "--seed", "1"))


def test_every_row_can_be_sampled(checkpoint):
    assert len({trial.folder for trial in steps.trials()}) == len(steps.trials())
    pipe, camera = MultiViewPipeline.from_pretrained(checkpoint), ring_cameras(1).batched()
    for _, changes in steps.GRID.values():
        assert pipe(torch.rand(1, 1, 3, 32, 32), camera, camera, **changes).images.isfinite().all()


def test_plans(words, calls, tmp_path):
    study.main(words("plans", "--num-objects", "1"))
    _, *sampled = calls
    assert len(sampled) == len(plans.TRIALS)
    assert {c["views"] for c in calls} == {ORBIT_TARGETS}
    found = json.loads((tmp_path / "plans" / "plans.json").read_text())["table"]
    assert list(found) == [trial.name for trial in (*REFERENCES, *plans.TRIALS)]
    figures = {name: row["psnr"] for name, row in found.items() if name != "truth"}
    assert len(set(figures.values())) == len(figures), "no two of them make the same views"
    assert (tmp_path / "plans" / "anchors_val-0.png").exists()
    folder = tmp_path / "plans" / plans.SLIDING.folder / "objects"
    assert {path.name for path in folder.iterdir()} == {"val-0.json", "val-0.png"}


def test_images_are_kept_as_they_were_measured(words, calls, data, checkpoint):
    args = study.parser().parse_args(words("steps", "--num-objects", "1"))
    one = Trial("one", {"num_inference_steps": 1})
    with OwnFolder(args.output) as own:
        common = study.make_study(args, study.open_model(args), own)
        run_trials(common, [REFERENCES[0], one])
    true, made = (common.images(trial, "val-0") for trial in (REFERENCES[0], one))
    assert psnr(made, true).mean().item() == pytest.approx(common.figures(one)["psnr"], rel=1e-5)
    assert torch.equal((made * 255).round() / 255, made)


@pytest.mark.parametrize(
    ("sampler", "num_steps", "guidance", "expected"),
    [("euler", 4, 1.0, 4), ("dpmpp-2m", 4, 1.5, 8), ("heun", 4, 1.0, 7), ("heun", 1, 2.0, 2), ("euler", 3, 0.0, 3)],
)
def test_evaluations_are_counted_as_the_pipeline_makes_them(checkpoint, data, sampler, num_steps, guidance, expected):
    """Views that pass through the network, over the views that are made; one block without anchors."""
    pipe, cameras = MultiViewPipeline.from_pretrained(checkpoint), ring_cameras(4)
    passed: list[int] = []
    pipe.denoiser.register_forward_pre_hook(lambda module, args: passed.append(args[0].shape[:2].numel()))
    sampling = {"sampler": sampler, "num_inference_steps": num_steps, "guidance_scale": guidance}
    known = torch.rand(1, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blind = [plans.replace(block, anchors=()) for block in plans.make_plan("joint", 1, 3)]
    pipe(known, cameras.select([0]).batched(), cameras.select([1, 2, 3]).batched(), plan=blind, **sampling)
    assert sum(passed) / 3 == steps.evaluations(sampling) == expected


def test_views_of_few_steps_are_neighbours_and_go_round():
    for count in (1, 2, 4, 8):
        chosen = [steps.chosen_views(number, count) for number in range(count)]
        assert all(views == list(range(views[0], views[0] + steps.VIEWS)) for views in chosen)
        assert max(map(max, chosen)) < ORBIT_TARGETS
        if count >= 4:
            assert set().union(*chosen) == set(range(ORBIT_TARGETS))


def test_the_best_of_few_evaluations_is_named_and_many_are_not_few():
    table = {
        "NeRF alone": {"lpips-alex": 0.1},
        "euler, 50 steps": {"lpips-alex": 0.15, "warp-psnr": 20.0, "evaluations": 50},
        "a": {"lpips-alex": 0.2, "warp-psnr": 22.0, "evaluations": 10},
        "b": {"lpips-alex": 0.18, "warp-psnr": 21.0, "evaluations": 4},
        "c": {"lpips-alex": 0.16, "warp-psnr": 25.0, "evaluations": 11},
    }
    quality, warp = steps.verdicts(table)
    assert "is b with 0.180; euler, 50 steps: 0.150" in quality
    assert "is a with 22.00" in warp


def test_the_seam_is_where_blocks_meet():
    between = [0.5 if i in (3, 7) else 0.1 for i in range(11)]
    assert plans.seam(between) == pytest.approx(0.4)
    assert plans.seam([None, *between[1:]]) == pytest.approx(0.4)
    assert plans.seam([0.1, 0.1]) is None


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ([], r"required: conditional\|fooling\|geometry"),
        (["guess"], "invalid choice: 'guess'"),
        (["steps"], "required: --data, --output"),
        (["plans", "--data", "x", "--output", "y", "--split", "all"], "--split: invalid choice: 'all'"),
    ],
)
def test_mistaken_words_are_user_errors(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        study.parser().parse_args(wrong)
