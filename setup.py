"""Puts the files of mvgenvs/installation/ into site-packages, where Python looks for .pth files when it starts."""

from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build import build

SOURCES = Path("mvgenvs/installation")


class BuildWithStartup(build):
    """Builds what setuptools builds, and `build_startup`."""

    sub_commands = [*build.sub_commands, ("build_startup", None)]  # noqa: RUF012


class BuildStartup(Command):
    """Copies them, not links to them: an editable installation whose sources have moved must not disturb Python."""

    editable_mode = False  # set by setuptools

    def initialize_options(self) -> None:
        """There is nothing to choose."""

    def finalize_options(self) -> None:
        """There is nothing to choose."""

    def run(self) -> None:
        """Copies to the root of the wheel, which an editable one takes no built files to."""
        if self.editable_mode:
            folder = self.get_finalized_command("install").install_purelib
        else:
            folder = self.get_finalized_command("build").build_lib
        for source in self.get_source_files():
            self.copy_file(source, str(Path(folder, Path(source).name)))

    def get_source_files(self) -> list[str]:
        """What a source distribution needs."""
        return [str(path) for path in sorted(SOURCES.glob("torchvision_mend.*"))]


setup(cmdclass={"build": BuildWithStartup, "build_startup": BuildStartup})
