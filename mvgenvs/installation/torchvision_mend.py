"""Makes a torchvision compiled for CUDA importable beside a CPU build of torch.

PyPI's torchvision is compiled for CUDA. Beside CPU torch its extension cannot be loaded, its import then fails with
"operator torchvision::nms does not exist", and diffusers, transformers and lpips fail with it. Nothing here needs the
two operators that its import asks for: declaring them without an implementation is enough.

It is done when torchvision is imported, whoever imports it: installing mvgenvs puts this file into site-packages, and
beside it a .pth file, which Python reads when it starts. So nothing may be imported here before it is needed.
"""

import sys

OPERATORS = ("nms", "qnms")
SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_declared: list = []  # operators live as long as the torch.library.Library that declares them


class Watcher:
    """A finder of modules that leaves torchvision to the others, and has what it misses declared before it runs."""

    def find_spec(self, name, path, target=None):
        """Nothing, but for torchvision what the other finders find."""
        if name != "torchvision":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        spec = next((found for finder in others if (found := finder.find_spec(name, path, target))), None)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def declare_and_run(module):
                declare_missing_operators(spec.submodule_search_locations or [])
                run(module)

            spec.loader.exec_module = declare_and_run  # type: ignore[method-assign]
        return spec


def watch():
    """Waits for torchvision to be imported; asking whether it is installed imports nothing."""
    if not any(isinstance(finder, Watcher) for finder in sys.meta_path):  # Python may read a .pth file twice
        sys.meta_path.insert(0, Watcher())


def declare_missing_operators(folders):
    """Declares torchvision's operators where its extension lies in `folders` but cannot be loaded."""
    from pathlib import Path

    import torch

    extension = next((path for folder in folders for path in sorted(Path(folder).glob("_C*.so"))), None)
    if extension is None or _loads(extension) or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in OPERATORS:
        library.define(name + SCHEMA)
    _declared.append(library)


def _loads(extension):
    """Whether the extension can be loaded; if so it now is, and torchvision's own loading finds it done."""
    import torch

    try:
        torch.ops.load_library(extension)
    except (ImportError, OSError):
        return False
    return True
