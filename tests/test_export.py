"""Exported pipelines: the model that is exported stays as it was, and files of others stay where they are."""

from pathlib import Path

import pytest
import torch
from tiny import tiny_pipeline

import train_multiview
from mvgenvs.errors import UserError
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.training import checkpoint
from mvgenvs.training.checkpoint import save_fp16


def test_the_pipeline_itself_stays_in_fp32(tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    before = {name: x.clone() for name, x in pipeline.denoiser.state_dict().items()}
    save_fp16(pipeline, tmp_path / "out")
    after = pipeline.denoiser.state_dict()
    assert all(after[name].dtype == x.dtype and torch.equal(after[name], x) for name, x in before.items())
    exported = MultiViewPipeline.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(exported.denoiser.state_dict(), after, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["model_index.json", "denoiser/notes.txt", "codec"])
def test_files_of_others_are_left_alone(tmp_path: Path, name: str) -> None:
    place = tmp_path / "out" / name
    place.parent.mkdir(parents=True)
    place.write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(UserError, match="was not written by this program"):
        save_fp16(tiny_pipeline(), tmp_path / "out")
    assert place.read_text() == '{"_class_name": "StableDiffusionPipeline"}'
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_pipeline_of_ours_is_replaced_and_what_lies_beside_it_stays(tmp_path: Path) -> None:
    tiny_pipeline(0).save_pretrained(tmp_path / "out")  # as earlier versions did, which listed nothing
    (tmp_path / "out/README.md").write_text("mine")
    for seed in (1, 2):
        save_fp16(tiny_pipeline(seed), tmp_path / "out")
        found = MultiViewPipeline.from_pretrained(tmp_path / "out").denoiser.unet.conv_out.weight
        torch.testing.assert_close(found, tiny_pipeline(seed).denoiser.unet.conv_out.weight, rtol=1e-3, atol=1e-3)
    assert (tmp_path / "out/README.md").read_text() == "mine"
    assert not (tmp_path / "out" / checkpoint.STAGED).exists()


def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_fp16(tiny_pipeline(0), tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    original = MultiViewPipeline.save_pretrained

    def full(self: MultiViewPipeline, *args: object, **options: object) -> None:
        original(self, *args, **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MultiViewPipeline, "save_pretrained", full)
    with pytest.raises(UserError, match="No space left"):
        save_fp16(tiny_pipeline(1), tmp_path / "out")
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("command", ["export", "refine", "estimate"])
def test_what_does_not_share_its_work_refuses_several_processes(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="does not share its work, and 2 processes were asked for"):
        train_multiview.main([command, "--help"])
