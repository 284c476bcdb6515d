"""Several processes share the work and say how many they are, or refuse: none believes to be alone."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny import tiny_parts, write_srn

from mvgenvs.errors import UserError
from mvgenvs.pipeline import MultiViewPipeline
from mvgenvs.processes import join_processes, refuse_several

REPO = Path(__file__).parent.parent
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = (
    "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
    "--dynamo_backend", "no",
)  # fmt: skip
LAUNCHERS = {"torchrun": TORCHRUN, "accelerate": ACCELERATE}


def launch(launcher: Sequence[str], *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launcher, *words]
    return subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of a small evaluation."""
    root = tmp_path_factory.mktemp("processes")
    write_srn(root / "data", {"test": 3}, views=24)
    pipeline = MultiViewPipeline.from_parts(tiny_parts(), default_steps=1, default_guidance=1.0)
    pipeline.codec.fit(torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    pipeline.save_pretrained(root / "checkpoint")
    shown = ["--methods", "copy-nearest", "joint", "--lpips-nets", "--metrics"]
    return ["-m", "eval.run", "--checkpoint", str(root / "checkpoint"), "--data", str(root / "data"), *shown]


def test_two_processes_share_an_evaluation_and_make_the_table_of_one(words: list[str], tmp_path: Path) -> None:
    done = launch(TORCHRUN, *words, "--output", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 processes share the work" in done.stderr
    assert done.stdout.count("| joint |") == 1, "one of them reports"
    alone = launch(words[1:2], *words[2:], "--output", str(tmp_path / "one"))
    assert alone.returncode == 0, alone.stderr[-2000:]
    assert "processes" not in alone.stderr
    assert alone.stdout == done.stdout
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    assert one["objects"] == two["objects"]


def test_a_mistake_of_two_processes_is_one_sentence(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("mine")
    done = launch(TORCHRUN, *words, "--output", str(tmp_path))
    assert done.returncode != 0
    assert done.stderr.count("error: ") == done.stderr.count("was not written by this program") == 1
    assert (tmp_path / "report.md").read_text() == "mine"


def test_one_process_where_several_were_asked_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `accelerate launch --cpu --num_processes 2` tells the one process that it starts."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(UserError, match="has started one process where several were asked for"):
        join_processes("cpu")


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sequence_is_not_made_twice(launcher: str, tmp_path: Path) -> None:
    picture = ["--image", str(REPO / "assets/car.png"), "--output", str(tmp_path / "out"), "--show-plan"]
    done = launch(LAUNCHERS[launcher], "infer_multiview.py", *picture)
    assert done.returncode != 0
    assert done.stderr.count("error: this does not share its work, and") == 1
    assert not (tmp_path / "out").exists()


def test_one_process_is_enough_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_several()
    assert join_processes("cpu").num_processes == 1


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_processes_that_do_not_come_together_are_refused(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    join_processes("cpu")  # accelerate joins once
    monkeypatch.setenv(variable, "2")
    with pytest.raises(UserError, match="2 processes were started, but 1 came together"):
        join_processes("cpu")
    with pytest.raises(UserError, match="does not share its work, and 2 processes were asked for"):
        refuse_several()


def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no usable GPU"):
        join_processes("cuda")
