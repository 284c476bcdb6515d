"""The package as users install it: a wheel, on some Pythons, with the newest or oldest dependencies that it allows.

    python tests/versions.py 3.10 3.11 3.12 3.13       # what pip chooses
    python tests/versions.py 3.11 --lowest             # the lower bounds of pyproject.toml, all at once

Each gets a virtual environment of its own, which is deleted afterwards; the commands run in another folder. Where pip
offers PyTorch only as a CUDA build, of several GB, everything else is installed, and what needs no PyTorch is tried;
--cuda takes it. Pythons are looked for as pythonX.Y and in pyenv's folder. Minutes each; no part of the suite.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
CUDA = re.compile(r"nvidia-|cuda-|triton$")
OF_TORCH = re.compile(r"(torch|torchvision|accelerate|peft|lpips|torch-fidelity)$")  # what is left out without it
SHOWN = ("torch", "diffusers", "accelerate", "huggingface-hub", "transformers", "numpy", "pillow")
QUICK = (
    "test_cameras.py", "test_trajectories.py", "test_transforms.py", "test_nerf.py", "test_config.py", "test_data.py",
    "test_pipeline.py", "test_obj.py", "test_training.py::test_resume_equals_uninterrupted",
)  # fmt: skip
CAR = ["--image", "car.png", "--camera", "car.json"]
SMALL = [
    "--data.size=32", "--codec.channels=8", "--codec.refiner_width=16", "--nerf.encoder_widths=[16,16,16]",
    "--nerf.volume_depth=4", "--nerf.num_coarse=4", "--nerf.num_fine=4", "--denoiser.render_size=8",
    "--denoiser.block_out_channels=[16,32]", "--loss.rays=16", "--optim.batch=2", "--optim.warmup=1",
]  # fmt: skip
# Every module is imported; a warning that points into ours fails, and so does any error but that there is no PyTorch.
IMPORT_ALL = """
import importlib, pathlib, sys, warnings
count, without = 0, 0
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    (root,) = {path for path in map(pathlib.Path, sys.path) if path.name == "site-packages"}
    for name in ("attention", "eval", "mvgenvs"):
        for path in sorted((root / name).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[-1] == "__main__" or "pretrained" in parts or "installation" in parts:
                continue
            try:
                importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
                count += 1
            except ModuleNotFoundError as error:
                if error.name not in sys.argv[1:]:
                    raise
                without += 1
ours = [w for w in caught if issubclass(w.category, DeprecationWarning) and any(
    f"site-packages/{name}/" in w.filename for name in ("mvgenvs", "attention", "eval"))]
assert not ours, [f"{w.filename}:{w.lineno} {w.message}" for w in ours]
print(f"{count} modules, {without} want PyTorch")
"""


@dataclass
class Trial:
    """One Python with one choice of dependencies, in a folder of its own."""

    python: str  # such as 3.12
    folder: Path
    failed: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)

    @property
    def bin(self) -> Path:
        return self.folder / "venv/bin"

    def run(self, *words: str | Path, where: str = ".") -> str:
        """Runs a command in the trial's folder and returns what it printed. Raises `SystemExit` if it fails."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        done = subprocess.run(
            [str(word) for word in words], cwd=self.folder / where, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit("\n".join((done.stdout + done.stderr).strip().splitlines()[-30:]))
        return done.stdout.strip()

    def uv(self, action: str, *words: str | Path) -> str:
        """`uv pip`, which also looks where pip has been told to look for files."""
        places = ["--find-links", os.environ["PIP_FIND_LINKS"]] if "PIP_FIND_LINKS" in os.environ else []
        return self.run(self.bin / "uv", "pip", action, "--python", self.bin / "python", *places, *words)

    def check(self, name: str, *words: str | Path, where: str = ".") -> None:
        """Runs a command, and notes whether it was done."""
        begin = time.perf_counter()
        try:
            last = (self.run(*words, where=where).splitlines() or [""])[-1]
            self.passed.append(name)
        except SystemExit as error:
            last = f"FAILED\n{error}"
            self.failed.append(name)
        print(f"  {name}: {time.perf_counter() - begin:.0f} s  {last[:2000]}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pythons", nargs="+", metavar="X.Y")
    parser.add_argument("--lowest", action="store_true", help="all dependencies at their lower bounds, if they agree")
    parser.add_argument("--pins", nargs="*", default=[], metavar="NAME==VERSION", help="these alone as given here")
    parser.add_argument("--extras", nargs="+", default=["test"], help="of pyproject.toml (default: test, nearly all)")
    parser.add_argument("--cuda", action="store_true", help="PyTorch with CUDA where there is no other")
    options = parser.parse_args()
    lines, failed = [], False
    for python in options.pythons:
        with tempfile.TemporaryDirectory(prefix=f"mvgenvs-{python}-") as folder:
            trial = Trial(python, Path(folder))
            print(f"Python {python}", flush=True)
            build(trial)
            has_torch, versions = install(trial, options)
            complete(trial) if has_torch else without_torch(trial)
        lines.append(f"| {python} | {versions} | {', '.join(trial.passed)} | {', '.join(trial.failed) or '–'} |")
        failed = failed or bool(trial.failed)
    print("\n| Python | versions | passed | failed |\n|---|---|---|---|", *lines, sep="\n")
    return int(failed)


def interpreter(python: str) -> str:
    """The path of a Python. Raises `SystemExit` if there is none."""
    pyenv = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{python}.*/bin/python"))
    found = shutil.which(f"python{python}") if not pyenv else str(pyenv[-1])
    if found is None:
        raise SystemExit(f"there is no Python {python}")
    return found


def build(trial: Trial) -> None:
    """Makes the environment, with uv in it, and a wheel of what git tracks."""
    trial.run(interpreter(trial.python), "-m", "venv", "venv")
    trial.run(trial.bin / "python", "-m", "pip", "install", "--upgrade", "pip", "uv")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=REPO, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (REPO / name).is_file():
            target = trial.folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(REPO / name, target)
    trial.run(trial.bin / "python", "-m", "pip", "wheel", "--no-deps", "--wheel-dir", ".", "./source")


def install(trial: Trial, options: argparse.Namespace) -> tuple[bool, str]:
    """Resolves what the wheel needs and installs it. Whether PyTorch is part of it, and the versions of some of it."""
    (trial.folder / "pins.txt").write_text("\n".join(options.pins))
    resolution = "lowest-direct" if options.lowest else "highest"
    words = ["--resolution", resolution, "--constraint", "pins.txt", "--no-annotate", "--no-header"]
    words += [word for extra in options.extras for word in ("--extra", extra)]
    listed = trial.uv("compile", *words, "--output-file", "chosen.txt", "source/pyproject.toml")
    chosen = dict(line.split(" ;")[0].split("==") for line in listed.splitlines() if "==" in line)
    has_torch = options.cuda or not any(CUDA.match(name) for name in chosen)
    if not has_torch:
        kept = [
            line for line in listed.splitlines() if not CUDA.match(line) and not OF_TORCH.match(line.split("==")[0])
        ]
        (trial.folder / "chosen.txt").write_text("\n".join(kept))
    (wheel,) = trial.folder.glob("mvgenvs-*.whl")
    trial.uv("install", "--no-deps", "-r", "chosen.txt", wheel)
    return has_torch, ", ".join(f"{name} {chosen[name]}" for name in SHOWN if name in chosen)


def complete(trial: Trial) -> None:
    """What users do first, and the quick tests, all of the installed package."""
    source = trial.folder / "source"
    for name in ("tests", "assets", "configs", "docs", "pyproject.toml", "README.md"):
        (source / name).rename(trial.folder / name)
    shutil.rmtree(source)  # so that nothing but the wheel is imported
    for name in ("car.png", "car.json"):
        shutil.copyfile(trial.folder / "assets" / name, trial.folder / name)
    data = "tests/data/opencars_sample"
    trial.check("imports", trial.bin / "python", "-c", IMPORT_ALL)
    few = ["--num-views=3", "--steps=2"]
    trial.check("infer", trial.bin / "mvgenvs-infer", *CAR, *few, "--output=views", "--export", "ply", "glb")
    field = ["--config=configs/ablation_field.yaml", f"--data.root={data}", "--optim.steps=2", "--run.output=run"]
    trial.check("train", trial.bin / "mvgenvs-train", *field, *SMALL)
    scene = "import tiny_data, pathlib; tiny_data.write_opencars(pathlib.Path('../orbit'), {'test': 1}, 26, 128)"
    trial.run(trial.bin / "python", "-c", scene, where="tests")
    joint = ["--data=orbit", "--split=test", "--num-objects=1", "--methods", "nerf", "joint", "--output=report"]
    trial.check("eval", trial.bin / "mvgenvs-eval", *joint, "--steps=1")
    tests = [f"tests/{name}" for name in QUICK]
    trial.check("tests", trial.bin / "pytest", "-q", "-p", "no:cacheprovider", "--durations=0", *tests)


def without_torch(trial: Trial) -> None:
    """All of it is compiled, its commands explain themselves, and what needs no PyTorch is imported."""
    python = trial.bin / "python"
    packages = ["mvgenvs", "attention", "eval", "infer_multiview.py", "train_multiview.py"]
    trial.check("compiles", python, "-W", "error", "-m", "compileall", "-q", "-f", *packages, where="source")
    missing = ["torch", "torchvision", "accelerate", "peft", "lpips", "torch_fidelity"]
    shutil.rmtree(trial.folder / "source")
    trial.check("imports without PyTorch", python, "-c", IMPORT_ALL, *missing)
    for name in ("infer", "train", "eval"):
        trial.check(f"{name} --help", trial.bin / f"mvgenvs-{name}", "--help")


if __name__ == "__main__":
    sys.exit(main())
