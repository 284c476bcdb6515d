"""A wheel holds all that a checkout runs with, and its commands exist."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from mvgenvs.config import SHIPPED, load_config, read_yaml
from mvgenvs.errors import UserError

REPO = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files that a wheel holds, relative to site-packages."""
    built = tmp_path_factory.mktemp("built")
    words = ["egg_info", "--egg-base", str(built), "build", "--build-base", str(built / "base")]
    words += ["--build-lib", str(built / "lib")]
    done = subprocess.run([sys.executable, "setup.py", *words], cwd=REPO, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {path.relative_to(built / "lib").as_posix() for path in (built / "lib").rglob("*") if path.is_file()}


def below(folder: str, *suffixes: str) -> set[str]:
    found = (path.relative_to(REPO) for path in (REPO / folder).rglob("*"))
    return {path.as_posix() for path in found if path.suffix in suffixes and "__pycache__" not in path.parts}


def test_a_wheel_holds_modules_weights_and_configurations(wheel: set[str]) -> None:
    modules = {"infer_multiview.py", "train_multiview.py"}.union(
        *(below(f, ".py") for f in ("mvgenvs", "attention", "eval"))
    )
    modules = {name for name in modules if not name.startswith("mvgenvs/installation/")}
    weights = below("mvgenvs/pretrained", ".safetensors", ".json", ".md", ".py")
    configs = {f"mvgenvs/{name}" for name in below("configs", ".yaml", ".md")}
    others = below("mvgenvs/app/static", ".css", ".js", ".html") | below("mvgenvs/data", ".txt")
    assert len(modules) > 200 and len(weights) > 10 and len(configs) > 20 and len(others) > 2
    assert modules | weights | configs | others <= wheel
    assert {"torchvision_mend.py", "torchvision_mend.pth"} <= wheel, "at the root, where Python looks for them"
    strangers = {name for name in wheel if name.split("/")[0] in ("tests", "docs", "assets", "configs")}
    assert not strangers


def test_the_commands_are_functions() -> None:
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    scripts = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts.keys() == {"mvgenvs-infer", "mvgenvs-train", "mvgenvs-eval"}
    for place in scripts.values():
        module, _, name = place.partition(":")
        assert callable(getattr(import_module(module), name))


def test_our_configurations_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("configs/field.yaml")) == load_config(SHIPPED / "field.yaml")
    assert read_yaml(Path("configs/recipes/two_cores.yaml"), "recipe")["stages"]
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/field.yaml").write_text("optim: {steps: 7}")
    assert load_config(Path("configs/field.yaml")).optim.steps == 7, "one's own comes first"
    for name in ("field.yaml", "configs/none.yaml", "configs/../../secret.yaml"):
        with pytest.raises(UserError, match="cannot read the configuration"):
            load_config(Path(name))
