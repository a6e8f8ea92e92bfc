"""Weights of files that Keras itself wrote: its softmax, any order of names, and networks that do not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from TransferSegLib.errors import ModelError
from TransferSegLib.models.importers.keras.isolated import read_arrays_isolated
from TransferSegLib.models.importers.keras.network import array_shapes, read_arrays
from TransferSegLib.models.store import expected_shapes
from TransferSegLib.networks.interface import NetworkSpec
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
from TransferSegLib.networks.unet_valid.unet import UNet3D

FILES = Path(__file__).resolve().parents[1] / "Data" / "keras_files"
NAMES = ["keras_2/weights_only.h5", "keras_2/full_model.h5", "keras_3/full_model.h5"]
Changed = Callable[[Callable[[h5py.File], None]], Path]


def tile(side: int) -> np.ndarray:
    """Return the tile of which Keras computed the softmax; see Testing/research/benchmarks/keras_full_width.py."""
    z, y, x = np.indices((side, side, side))
    return ((z * 7 + y * 13 + x * 29 + (z // 9) * (y // 7) * (x // 5) * 11) % 901 - 500)[None, None].astype(np.float32)


@pytest.fixture
def changed(tmp_path: Path) -> Changed:
    """Return a function that copies Keras's file of weights, changes the copy and returns its path."""

    def change(edit: Callable[[h5py.File], None]) -> Path:
        path = tmp_path / "changed.h5"
        shutil.copyfile(FILES / NAMES[0], path)
        path.chmod(0o644)
        with h5py.File(path, "r+") as file:
            edit(file)
        return path

    return change


def replace(file: h5py.File, layer: str, array: str, values: np.ndarray) -> None:
    """Put other values in the place of an array of a layer."""
    name = f"{layer}/{array}:0"
    del file[layer][name]
    file[layer][name] = values


@pytest.mark.parametrize("name", NAMES)
def test_softmax_is_keras_own(name: str):
    """As far as float32 lets a probability be known; see Testing/networks/test_keras_reference.py."""
    weights = read_arrays_isolated(FILES / name)
    network = UNet3D(weights.network.classes, weights.network.arguments["width"]).eval()
    network.load_state_dict(weights.state_dict())
    with np.load((FILES / name).with_name("reference.npz")) as reference:
        expected = np.roll(reference["y"], 1, axis=1).astype(np.float64)
        side = int(reference["side"])
    with torch.inference_mode():
        logits = network(torch.from_numpy(tile(side))).double()
    difference = np.abs(torch.softmax(logits, dim=1).numpy() - expected)
    rounding = float(logits.abs().max()) * 16 * 2.0**-23
    assert rounding < 2e-4
    assert bool((difference <= 1e-5 + expected * (1 - expected) * rounding).all())
    assert float((difference <= 1e-5).mean()) > 0.997
    assert len(np.unique(expected.argmax(axis=1))) == weights.network.classes


def test_what_the_file_says_of_itself():
    only_weights, whole, newer = (read_arrays(FILES / name) for name in NAMES)
    assert (only_weights.network.arguments["width"], only_weights.network.classes) == (1, 4)
    assert (newer.network.arguments["width"], newer.network.classes) == (2, 3)
    assert (only_weights.layers_checked, whole.layers_checked, newer.layers_checked) == (False, True, True)
    assert whole.keras_version.startswith("2.15") and newer.keras_version.startswith("3.")
    assert whole.backend == "tensorflow"
    for name, values in whole.state_dict().items():
        assert torch.equal(values, only_weights.state_dict()[name]), "both were saved of one network"
        assert values.dtype == torch.float32 and values.is_contiguous()


def test_kernels_are_turned_and_the_background_moves_to_the_front():
    with h5py.File(FILES / NAMES[0]) as file:
        kernel = np.asarray(file["conv3d_3/conv3d_3/kernel:0"])  # (z, y, x, in, out) = (3, 3, 3, 2, 4)
        head = np.asarray(file["output_segm/output_segm/kernel:0"])[0, 0, 0]
        bias = np.asarray(file["output_segm/output_segm/bias:0"])
    last = read_arrays(FILES / NAMES[0]).state_dict()
    first = read_arrays(FILES / NAMES[0]).state_dict("first")
    turned = last["down.1.second.weight"]
    assert turned.shape == (4, 2, 3, 3, 3)
    assert turned[3, 1, 0, 1, 2] == kernel[0, 1, 2, 1, 3]
    assert last["head.bias"].tolist() == [bias[3], bias[0], bias[1], bias[2]]
    assert first["head.bias"].tolist() == bias.tolist()
    assert last["head.weight"][0, :, 0, 0, 0].tolist() == head[:, 3].tolist()
    assert last["head.weight"][2, :, 0, 0, 0].tolist() == head[:, 1].tolist()
    with pytest.raises(ModelError, match="'first' or the 'last'"):
        read_arrays(FILES / NAMES[0]).state_dict("middle")  # type: ignore[arg-type]


def test_layers_count_in_the_files_order_whatever_their_names(changed: Changed):
    """As after a second network was built in the same session: conv3d_90 ... conv3d_104, which sorts otherwise."""

    def rename(file: h5py.File) -> None:
        names = [name for name in file.attrs["layer_names"] if "conv3d" in name]
        new = {name: f"conv3d_{number}" for number, name in enumerate(names, start=90)}
        for old, name in new.items():
            file.move(old, name)
        file.attrs["layer_names"] = [new.get(name, name).encode() for name in file.attrs["layer_names"]]

    before = read_arrays(FILES / NAMES[0]).state_dict()
    after = read_arrays(changed(rename)).state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("kind", ["bytes", "text"])
def test_lists_of_names_in_pieces_as_bytes_or_text(changed: Changed, kind: str):
    """Keras splits a list that is too long for one attribute; its versions store bytes or text."""

    def split(file: h5py.File) -> None:
        names = [str(name) for name in file.attrs["layer_names"]]
        del file.attrs["layer_names"]
        for number, piece in enumerate((names[:4], names[4:5], names[5:])):
            if kind == "bytes":
                file.attrs[f"layer_names{number}"] = np.array([name.encode() for name in piece])
            else:
                file.attrs.create(f"layer_names{number}", piece, dtype=h5py.string_dtype())
        arrays = list(file["conv3d_2"].attrs["weight_names"])
        del file["conv3d_2"].attrs["weight_names"]
        for number, array in enumerate(arrays):
            file["conv3d_2"].attrs[f"weight_names{number}"] = [array]

    before = read_arrays(FILES / NAMES[0]).state_dict()
    after = read_arrays(changed(split)).state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("dtype", ["float16", "float64", ">f4"])
def test_other_precisions_become_float32(changed: Changed, dtype: str):
    def recast(file: h5py.File) -> None:
        values = np.asarray(file["conv3d_1/conv3d_1/kernel:0"])
        replace(file, "conv3d_1", "kernel", values.astype(dtype))

    before = read_arrays(FILES / NAMES[0]).state_dict()["down.0.second.weight"]
    after = read_arrays(changed(recast)).state_dict()["down.0.second.weight"]
    assert after.dtype == torch.float32
    torch.testing.assert_close(after, before, rtol=1e-3 if dtype == "float16" else 0, atol=1e-6)


def test_packed_arrays_are_read(changed: Changed):
    def pack(file: h5py.File) -> None:
        values = np.asarray(file["conv3d_7/conv3d_7/kernel:0"])
        del file["conv3d_7/conv3d_7/kernel:0"]
        file.create_dataset("conv3d_7/conv3d_7/kernel:0", data=values, compression="gzip", chunks=True)

    before = read_arrays(FILES / NAMES[0]).state_dict()
    after = read_arrays(changed(pack)).state_dict()
    assert torch.equal(after["down.3.second.weight"], before["down.3.second.weight"])


def test_the_layer_that_does_not_fit_is_named(changed: Changed):
    path = changed(lambda file: replace(file, "conv3d_4", "kernel", np.zeros((3, 3, 3, 5, 4), np.float32)))
    with pytest.raises(ModelError) as raised:
        read_arrays(path)
    text = str(raised.value)
    assert "'conv3d_4' (convolution 5 of 15)" in text
    assert "(3, 3, 3, 5, 4) instead of (3, 3, 3, 4, 4)" in text and "1 channels in the first layer" in text
    path = changed(lambda file: replace(file, "conv3d_9", "bias", np.zeros(9, np.float32)))
    with pytest.raises(ModelError, match=r"'conv3d_9'.* bias of the shape \(9,\) instead of \(8,\)"):
        read_arrays(path)


def test_another_number_of_convolutions(changed: Changed):
    def drop(file: h5py.File) -> None:
        file.attrs["layer_names"] = [name.encode() for name in file.attrs["layer_names"] if name != "conv3d_5"]

    with pytest.raises(ModelError, match="14 convolutions instead of 15"):
        read_arrays(changed(drop))


def test_layers_of_other_kinds(changed: Changed):
    def normalise(file: h5py.File) -> None:
        group = file.create_group("batch_normalization")
        names = [f"batch_normalization/{name}:0" for name in ("gamma", "beta", "moving_mean", "moving_variance")]
        for name in names:
            group[name] = np.ones(2, np.float32)
        group.attrs["weight_names"] = [name.encode() for name in names]
        file.attrs["layer_names"] = [
            *(name.encode() for name in file.attrs["layer_names"][:2]),
            b"batch_normalization",
            *(name.encode() for name in file.attrs["layer_names"][2:]),
        ]

    with pytest.raises(ModelError, match=r"another network.*'batch_normalization' is not a 3D convolution.*gamma"):
        read_arrays(changed(normalise))


def test_a_convolution_without_a_bias(changed: Changed):
    def drop(file: h5py.File) -> None:
        file["conv3d_2"].attrs["weight_names"] = [b"conv3d_2/kernel:0"]

    with pytest.raises(ModelError, match="'conv3d_2' is not a 3D convolution with a kernel and a bias"):
        read_arrays(changed(drop))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(changed: Changed, value: float):
    def spoil(file: h5py.File) -> None:
        file["conv3d_6/conv3d_6/kernel:0"][0, 0, 0, 0, 0] = value

    with pytest.raises(ModelError, match="'conv3d_6/kernel:0' holds values that are not finite"):
        read_arrays(changed(spoil))


def test_whole_numbers_are_no_weights(changed: Changed):
    path = changed(lambda file: replace(file, "conv3d", "bias", np.zeros(1, np.int32)))
    with pytest.raises(ModelError, match="stored as 'int32'"):
        read_arrays(path)


def test_a_first_layer_wider_than_any_network(changed: Changed):
    path = changed(lambda file: replace(file, "conv3d", "kernel", np.zeros((3, 3, 3, 1, 300), np.float32)))
    with pytest.raises(ModelError, match="network width is 300"):
        read_arrays(path)
    path = changed(lambda file: replace(file, "conv3d", "kernel", np.zeros((3, 3, 3, 1, 256), np.float32)))
    with pytest.raises(ModelError, match=r"256 channels in its first layer 'conv3d' its weights would take 4,"):
        read_arrays(path)


@pytest.mark.parametrize("network", [unet_valid_spec(width=5, classes=2), unet_valid_spec(width=32, classes=23)])
def test_the_shapes_are_those_of_our_network(network: NetworkSpec):
    ours = expected_shapes(network).values()
    assert [(*s[2:], s[1], s[0]) if len(s) == 5 else s for s in ours] == list(array_shapes(network))
    if network.arguments["width"] == 32:
        assert sum(int(np.prod(shape)) for shape in array_shapes(network)) == 16_317_015, "as published"


def test_the_child_process_gives_the_same():
    here, isolated = read_arrays(FILES / NAMES[2]), read_arrays_isolated(FILES / NAMES[2])
    assert all(np.array_equal(a, b) for a, b in zip(here.arrays, isolated.arrays, strict=True))
    assert (here.network, here.keras_version, here.backend, here.layers_checked) == (
        isolated.network,
        isolated.keras_version,
        isolated.backend,
        isolated.layers_checked,
    )
