"""Items that are made once and kept: as many as fit into the time, and no others."""

import time
from pathlib import Path

from accelerate import Accelerator

from mvgenvs.training.kept import TIMED, make_all


def test_what_a_killed_run_made_before_its_plan_is_kept_or_deleted(tmp_path: Path) -> None:
    """It had made the items that tell how long one takes; the next run takes others for that, which may be too many."""
    folder = tmp_path / "items"

    def path(index: int) -> Path:
        return folder / f"{index}.txt"

    def make(index: int) -> None:
        time.sleep(0.01)
        path(index).write_text(f"{index}")

    def run() -> int:
        return make_all(Accelerator(cpu=True), folder, {"by": "me"}, path, make, 100, 0.001).count

    folder.mkdir()
    (folder / "made_by.json").write_text('{"by": "me"}\n')
    for index in range(TIMED):
        make(index)
    assert run() == TIMED
    assert sorted(folder.glob("*.txt")) == [path(index) for index in range(TIMED)]
    assert run() == TIMED, "and the plan stays"
