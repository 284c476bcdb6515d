"""Puts in place what is no module: mvgenvs/installation/ at the root of site-packages, and configs/ in the package.

Python looks for .pth files in site-packages when it starts. The configurations of a checkout stay where they are.
"""

from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build import build

SOURCES, CONFIGS = Path("mvgenvs/installation"), Path("configs")


class BuildWithOthers(build):
    """Builds what setuptools builds, and `build_others`."""

    sub_commands = [*build.sub_commands, ("build_others", None)]  # noqa: RUF012


class BuildOthers(Command):
    """Copies them, not links to them: an editable installation whose sources have moved must not disturb Python."""

    editable_mode = False  # set by setuptools

    def initialize_options(self) -> None:
        """There is nothing to choose."""

    def finalize_options(self) -> None:
        """There is nothing to choose."""

    def run(self) -> None:
        """Copies to the wheel's folder, from which an editable one takes nothing."""
        if self.editable_mode:
            folder = self.get_finalized_command("install").install_purelib
        else:
            folder = self.get_finalized_command("build").build_lib
            for source in configurations():
                target = Path(folder, "mvgenvs", source)
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target))
        for source in startup_files():
            self.copy_file(str(source), str(Path(folder, source.name)))

    def get_source_files(self) -> list[str]:
        """What a source distribution needs."""
        return [str(path) for path in [*startup_files(), *configurations()]]


def startup_files() -> list[Path]:
    """The files of mvgenvs/installation/."""
    return sorted(SOURCES.glob("torchvision_mend.*"))


def configurations() -> list[Path]:
    """All files of configs/."""
    return sorted(path for path in CONFIGS.rglob("*") if path.suffix in (".yaml", ".md"))


setup(cmdclass={"build": BuildWithOthers, "build_others": BuildOthers})
