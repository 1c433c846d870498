"""MLX's devices: what is refused and why, and what is said when memory runs out."""

import pytest

mx = pytest.importorskip("mlx.core")

from clearline.backends import get_backend  # noqa: E402
from clearline.backends.mlx_devices import gpu  # noqa: E402
from clearline.backends.mlx_run import Mlx  # noqa: E402
from clearline.errors import BackendError  # noqa: E402


@pytest.mark.skipif(not gpu()[1], reason="this MLX has a GPU")
class TestWithoutGpu:
    def test_a_version_that_computes_wrong_numbers_is_refused(self, monkeypatch):
        from clearline.backends import mlx_devices

        for found, refused in (("0.31.2", True), ("0.32.0", True), ("0.32.1", False), ("0.33.0.dev2026", False), ("1.0", False)):
            monkeypatch.setattr(mlx_devices, "version", lambda name, found=found: found)
            assert bool(mlx_devices.devices()[1].fault) is refused
            if refused:
                with pytest.raises(BackendError, match=rf"MLX {found} is too old, .*; pip install 'mlx>=0.32.1'"):
                    get_backend("mlx/cpu")

    def test_the_gpu_is_refused_with_the_reason(self):
        name, fault = gpu()
        with pytest.raises(BackendError, match=f"device {name} cannot be used: this MLX") as told:
            get_backend("mlx", device=name)
        assert fault in str(told.value) and "--device cpu" in str(told.value)

    def test_the_cpu_is_taken_and_the_reason_said(self, caplog):
        from clearline.backends import mlx_run

        mlx_run._say_once.cache_clear()
        assert get_backend("mlx").device == "cpu"
        assert "mlx runs on the CPU: this MLX" in caplog.text

    def test_nothing_is_said_when_the_cpu_was_asked_for(self, caplog):
        from clearline.backends import mlx_run

        mlx_run._say_once.cache_clear()
        assert get_backend("mlx", device="cpu").device == "cpu" and not caplog.text

    def test_a_gpu_that_is_found_and_does_not_start_is_refused(self, monkeypatch):
        from clearline.backends import mlx_devices

        mlx_devices._start_fault.cache_clear()
        monkeypatch.setattr(mlx_devices.mx.metal, "is_available", lambda: True)  # this build has nothing to start
        with pytest.raises(BackendError, match="device metal cannot be used: the GPU that MLX finds does not start"):
            get_backend("mlx", device="metal")
        assert get_backend("mlx").device == "cpu" and mlx_devices.devices()[0].fault.endswith("without gpu backend")


@pytest.mark.skipif(gpu()[0] == "metal", reason="this is a Mac")
def test_metal_is_a_macs():
    with pytest.raises(BackendError, match="device metal cannot be used: Metal needs a Mac"):
        get_backend("mlx", device="metal")


@pytest.mark.parametrize(("device", "dtype", "message"), [("cuda:7", None, "no device 'cuda:7'"), ("cpu", "float64", "float64")])
def test_what_mlx_does_not_have(device, dtype, message):
    with pytest.raises(BackendError, match=message):
        get_backend("mlx", device=device, dtype=dtype)


def test_full_float32_unless_told_otherwise():
    """MLX multiplies float32 in TF32 on GPUs that can; the variable is read at the first product."""
    import os

    assert os.environ["MLX_ENABLE_TF32"] == "0"


def test_out_of_memory_is_told_with_what_to_do():
    def fails(text):
        raise RuntimeError(text)

    backend = Mlx()
    for text in (
        "[metal::malloc] Attempting to allocate 99 bytes which is greater than the maximum",
        "[METAL] Command buffer execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
    ):
        with pytest.raises(BackendError, match=r"cpu is out of memory with \d+\.\d GB .*--quantize"):
            backend.alone(lambda text=text: fails(text))
    with pytest.raises(RuntimeError, match="something else"):
        backend.alone(lambda: fails("something else"))
