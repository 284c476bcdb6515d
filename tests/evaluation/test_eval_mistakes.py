"""Mistakes in evaluations and damaged data: one sentence and exit code 2."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_eval import FakePipeline, read_summary

from eval import run
from eval.methods import COPY
from mvgenvs.cli import run_script


def fails_with(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that a run with `words` ends with."""
    with pytest.raises(SystemExit) as exit_:
        run_script(lambda: run.main(words))
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert exit_.value.code == 2
    assert last.startswith("error: ")
    assert "usage" not in last
    return last


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (["--protocol", "circle"], "invalid choice: 'circle'"),
        (["--methods", "magic"], "invalid choice: 'magic'"),
        (["--methods", "truth"], "truth alone evaluates nothing"),
        (["--metrics", "magic"], "invalid choice: 'magic'"),
        (["--num-objects", "0"], "'0' is not a whole number of at least 1"),
        (["--steps", "x"], "'x' is not a whole number"),
        (["--nonsense"], "unrecognized arguments"),
        (["--data", "nowhere"], "nowhere"),
        (["--split", "val"], "no split 'val'"),
        (["--checkpoint", "nowhere"], "neither a folder nor a model"),
        (["--protocol", "srn"], "view 000064"),
        (["--inputs", "4"], "1 to 3 input views"),
        (["--output", __file__], "cannot write to --output"),
        (["--guidance", "nan"], "--guidance: 'nan' is not a number from 0 to"),
        (["--churn", "nan"], "--churn: 'nan' is not a number from 0 to"),
        (["--anchors", "-1"], "--anchors: '-1' is not a whole number from 0 to"),
        (["--inception-weights", __file__], "test_eval_mistakes.py"),
    ],
)
def test_mistakes_give_one_sentence_and_exit_2(
    arguments: Callable[..., list[str]],
    pipeline: FakePipeline,
    capsys: pytest.CaptureFixture[str],
    mistake: list[str],
    sentence: str,
) -> None:
    assert sentence in fails_with(arguments(*mistake), capsys)


def test_damaged_and_missing_views_are_named(
    arguments: Callable[..., list[str]],
    pipeline: FakePipeline,
    srn_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "broken"
    shutil.copytree(srn_data, root)
    images = root / "cars_test" / "car_b" / "rgb"
    words = arguments("--data", str(root), "--protocol", "srn", "--methods", "copy-nearest")
    (images / "000030.png").unlink()
    assert "car_b lacks view 000030, which car_a has" in fails_with(words, capsys)
    whole = (images / "000110.png").read_bytes()
    (images / "000030.png").write_bytes(whole[: len(whole) // 2])
    sentence = fails_with(words, capsys)
    assert "000030" in sentence
    assert "car_b" in sentence


def test_a_damaged_record_is_named(
    arguments: Callable[..., list[str]], pipeline: FakePipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = arguments("--num-objects", "1", "--methods", "copy-nearest")
    run.main(words)
    (tmp_path / "report" / "objects" / "car_a.json").write_text("{")
    assert "car_a.json" in fails_with(words, capsys)


def test_missing_lpips_weights_leave_the_other_metrics(
    arguments: Callable[..., list[str]], pipeline: FakePipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run.main(arguments("--num-objects", "1", "--lpips-nets", "alex", "--lpips-trunks", str(tmp_path)))
    assert "continuing without LPIPS-alex" in capsys.readouterr().err
    figures = read_summary(tmp_path / "report")["table"][COPY]
    assert set(figures) == {"psnr", "ssim"}
