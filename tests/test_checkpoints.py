"""Folders of checkpoints: which are kept, what killed runs leave of them, and logs that were cut off."""

import json
from pathlib import Path

import pytest
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from tiny import tiny_config, tiny_parts

from mvgenvs.errors import UserError
from mvgenvs.parts import checkpoints
from mvgenvs.training import checkpoint as module
from mvgenvs.training.checkpoint import clear_unfinished_checkpoints, put_in_place
from mvgenvs.training.log import append_line, read_log
from mvgenvs.training.loop import from_workers


def checkpoint(folder: Path, text: str = "whole") -> Path:
    (folder / "state").mkdir(parents=True)
    (folder / "step.json").write_text(text)
    return folder


def test_a_damaged_checkpoint_of_a_later_step_does_not_push_out_the_new_one(tmp_path: Path) -> None:
    """With run.keep 1 it was kept as the newest, and the only sound one deleted."""
    for step in (2, 3, 5):
        checkpoint(tmp_path / f"checkpoint-{step:06d}", "damaged" if step == 5 else "whole")
    final = tmp_path / "checkpoint-000004"
    put_in_place(checkpoint(tmp_path / ".checkpoint-000004.tmp"), final, keep=1)
    assert list(tmp_path.iterdir()) == [final]


def test_the_newest_are_kept_and_the_same_step_is_replaced(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint(tmp_path / f"checkpoint-{step:06d}")
    (tmp_path / "checkpoint-000000").mkdir()
    (tmp_path / "checkpoint-000000/mine.txt").touch()
    put_in_place(checkpoint(tmp_path / ".checkpoint-000003.tmp", "new"), tmp_path / "checkpoint-000003", keep=2)
    names = [path.name for path in checkpoints(tmp_path)]
    assert names == ["checkpoint-000000", "checkpoint-000002", "checkpoint-000003"], "what is not ours stays"
    assert (tmp_path / "checkpoint-000003/step.json").read_text() == "new"


def test_what_killed_runs_leave_of_checkpoints_goes(tmp_path: Path) -> None:
    for name in (".checkpoint-000002.tmp", ".checkpoint-000001.old", ".checkpoint-mine"):
        checkpoint(tmp_path / name)
    clear_unfinished_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".checkpoint-mine"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . pos 1"),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
)
def test_a_checkpoint_on_a_full_disk_is_one_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Torch's archive reports it in its own way, and a folder that could not be made was a traceback."""

    def refuse(*_: object, **__: object) -> None:
        raise error

    config, parts = tiny_config(output=tmp_path), tiny_parts()
    given = (Accelerator(cpu=True), config, parts, EMAModel(parts.denoiser.parameters()), 1, 0)
    for owner, name in ((module, "write_state"), (Path, "mkdir")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            with pytest.raises(UserError, match=r"cannot write .*checkpoint-000001 .*--resume auto"):
                module.save_checkpoint(*given)
        assert not list(tmp_path.iterdir())


def test_a_line_after_one_that_was_cut_off_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "run/log.jsonl"
    append_line(log, {"step": 1})
    log.write_text(log.read_text() + '{"step": 2, "lo')
    append_line(log, {"step": 2})
    append_line(log, {"step": 3})
    assert read_log(log) == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert json.loads(log.read_text().splitlines()[0]) == {"step": 1}


def test_a_killed_worker_is_one_sentence_and_other_errors_stay() -> None:
    def loader(text: str):
        yield 1
        raise RuntimeError(text)

    with pytest.raises(UserError, match="a process that prepares data was killed"):
        list(from_workers(loader("DataLoader worker (pid 7) is killed by signal: Killed.")))
    with pytest.raises(RuntimeError, match="sizes"):
        list(from_workers(loader("sizes do not match")))
