from __future__ import annotations

import pytest
import torch

from TransferSegLib.errors import DeviceError
from TransferSegLib.inference import devices
from TransferSegLib.inference.devices import Device, choose_device, is_out_of_memory
from TransferSegLib.inference.probe import Fastest


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_ampere_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(devices, "_failure", lambda name: None)
    monkeypatch.setattr(devices, "fastest", lambda name, label, half: Fastest(half=True, channels_last=True))


def test_without_a_gpu_auto_is_the_cpu(no_gpu):
    device = choose_device("auto")
    assert (device.kind, device.torch_name, device.name) == ("cpu", "cpu", "CPU")
    assert device.dtype in (torch.float32, torch.bfloat16)
    assert device.memory_format == torch.channels_last_3d


def test_cpu_in_a_precision_asked_for():
    assert str(choose_device("cpu", torch.float32)) == "CPU (float32)"
    assert choose_device("cpu", torch.bfloat16).in_float32() == choose_device("cpu", torch.float32)


@pytest.mark.parametrize(
    ("wanted", "message"), [("cuda", "no CUDA GPU"), ("cuda:3", "no CUDA GPU"), ("mps", "no Apple GPU")]
)
def test_a_device_that_is_not_there(no_gpu, wanted, message):
    with pytest.raises(DeviceError, match=message):
        choose_device(wanted)


@pytest.mark.parametrize("wanted", ["gpu", "cuda:x", "cpu:1", ""])
def test_an_unknown_device(wanted):
    with pytest.raises(DeviceError, match="choose auto, cpu, cuda"):
        choose_device(wanted)


def test_gpus_are_chosen_and_named(two_ampere_gpus):
    assert str(choose_device("auto")) == "GPU 0 (bfloat16)"
    assert choose_device("cuda:1") == Device("cuda:1", "GPU 1", torch.bfloat16, channels_last=True)
    assert choose_device("cuda:1").memory_format == torch.channels_last_3d
    assert choose_device("cuda", torch.float32).dtype == torch.float32
    with pytest.raises(DeviceError, match="cuda:0 to cuda:1"):
        choose_device("cuda:2")


@pytest.mark.parametrize(("capability", "dtype"), [((6, 1), torch.float32), ((7, 5), torch.float16)])
def test_older_gpus_get_what_they_compute_natively(two_ampere_gpus, monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_device("cuda").dtype == dtype


def test_half_precision_only_where_it_is_faster(two_ampere_gpus, monkeypatch):
    monkeypatch.setattr(devices, "fastest", lambda name, label, half: Fastest(half=False, channels_last=False))
    assert choose_device("cuda").dtype == torch.float32
    assert choose_device("cuda").memory_format == torch.contiguous_format


def test_a_gpu_that_does_not_run_the_network(two_ampere_gpus, monkeypatch, no_gpu):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(devices, "_failure", lambda name: "max_pool3d is not implemented")
    assert choose_device("auto").kind == "cpu"
    with pytest.raises(DeviceError, match="max_pool3d is not implemented"):
        choose_device("mps")


def test_the_trial_run_passes_on_the_cpu_and_reports_what_goes_wrong():
    assert devices._failure("cpu") is None
    assert devices._failure("meta")


def test_native_bfloat16_is_asked_of_torch_first(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert devices.cpu_has_bfloat16()


def test_native_bfloat16_falls_back_to_the_processors_flags(monkeypatch, tmp_path):
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, probe, None, raising=False)
    flags = tmp_path / "cpuinfo"
    monkeypatch.setattr(devices, "_PROCESSOR_FLAGS", flags)
    assert not devices.cpu_has_bfloat16()
    flags.write_text("flags : fpu sse avx512f avx512_bf16")
    assert devices.cpu_has_bfloat16()
    flags.write_text("flags : fpu sse avx512f")
    assert not devices.cpu_has_bfloat16()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 1 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
    ],
)
def test_out_of_memory_in_all_its_words(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("out of memory"), KeyError("x")])
def test_other_errors_are_not(error):
    assert not is_out_of_memory(error)


def test_a_real_allocation_that_fails():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_free_memory_counts_what_torch_keeps_and_leaves_it_to_torch(two_ampere_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (5_000, 80_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda place: 900)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda place: 300)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: pytest.fail("memory was given back"))
    assert devices.free_memory_bytes(choose_device("cuda")) == 5_600
    assert devices.free_memory_bytes(Device("cpu", "CPU")) is None
