"""Which device draws: a GPU where there is one, on a machine that is made up."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import pytest

from mvgenvs.errors import UserError
from mvgenvs.meshes import egl

moderngl = pytest.importorskip("moderngl", reason="moderngl is not installed")

LLVMPIPE, GPU = "llvmpipe (LLVM 15.0.6, 256 bits)", "NVIDIA H100 80GB HBM3/PCIe/SSE2"


class Machine:
    """EGL devices by the names of their renderers; one that is empty does not work."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices, self.open = devices, 0

    def create_context(self, device_index: int | None, **_: object) -> SimpleNamespace:
        if not (device_index or 0) < len(self.devices):
            raise Exception(f"requested device index {device_index}, but found {len(self.devices)} devices")
        if not self.devices[device_index or 0]:
            raise Exception("eglInitialize failed")
        self.open += 1
        return SimpleNamespace(info={"GL_RENDERER": self.devices[device_index or 0]}, release=self.release)

    def release(self) -> None:
        self.open -= 1


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(egl.CHOICE, raising=False)
    egl.best_device.cache_clear()
    yield
    egl.best_device.cache_clear()


@pytest.mark.parametrize(
    ("devices", "best"),
    [
        ([LLVMPIPE], 0),
        ([GPU], 0),
        ([LLVMPIPE, GPU], 1),
        ([LLVMPIPE, "", GPU, "Another GPU"], 2),
        (["", LLVMPIPE], 1),
        (["softpipe", LLVMPIPE], 0),
    ],
)
def test_a_gpu_goes_before_software_and_what_works_before_what_fails(
    monkeypatch: pytest.MonkeyPatch, devices: list[str], best: int
) -> None:
    machine = Machine(devices)
    monkeypatch.setattr(moderngl, "create_context", machine.create_context)
    assert egl.open_context().info["GL_RENDERER"] == devices[best]
    assert machine.open == 1  # those that were tried are closed again
    assert egl.open_context().info["GL_RENDERER"] == devices[best]


def test_users_may_choose_a_device_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def create(**options: object) -> SimpleNamespace:
        asked.append(options["device_index"])
        return SimpleNamespace(info={"GL_RENDERER": LLVMPIPE}, release=lambda: None)

    monkeypatch.setattr(moderngl, "create_context", create)
    monkeypatch.setenv(egl.CHOICE, "3")
    egl.open_context()
    assert asked == [None]  # glcontext reads the variable


def test_where_nothing_works_one_sentence_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moderngl, "create_context", Machine(["", ""]).create_context)
    with pytest.raises(UserError, match=r"cannot open an OpenGL context on EGL \(eglInitialize failed\): .* install"):
        egl.open_context()
