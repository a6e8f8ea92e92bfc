"""What the plans of nnU-Net say, in both dialects, and what of it cannot be used."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from nnunet_folders import CT, DATASET, NEW, OLD, plans_with

from TransferSegLib.errors import ModelError
from TransferSegLib.images.intensity import IntensityRule
from TransferSegLib.models.importers.nnunet.plans import NnUNetModel, read_plans, resolved
from TransferSegLib.models.store import expected_shapes
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.nnunet.backbone import nnunet_spec
from TransferSegLib.networks.nnunet.plan import UNetPlan

RESIDUAL = "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet"


def read(plans: dict[str, Any], dataset: dict[str, Any] | None = None) -> NnUNetModel:
    return read_plans(plans, DATASET if dataset is None else dataset, "3d_fullres")


def changed(change: Callable[[dict[str, Any]], Any], configuration: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return plans whose configuration was changed."""
    plans = plans_with(configuration)
    change(plans["configurations"]["3d_fullres"])
    return plans


def arguments(configuration: dict[str, Any]) -> dict[str, Any]:
    return configuration["architecture"]["arch_kwargs"]


def residual(configuration: dict[str, Any]) -> None:
    configuration["architecture"]["network_class_name"] = RESIDUAL
    arguments(configuration)["n_blocks_per_stage"] = arguments(configuration).pop("n_conv_per_stage")


def test_both_dialects_say_the_same() -> None:
    new, old = read(plans_with(NEW)), read(plans_with(OLD))
    assert new == old
    assert new.plan == UNetPlan(
        is_residual=False,
        features=(2, 4, 6),
        kernels_zyx=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        strides_zyx=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        encoder_blocks=(2, 2, 2),
        decoder_convolutions=(2, 2),
        patch_zyx=(16, 16, 16),
    )
    assert new.preparation.spacing_zyx_mm == (3.0, 1.5, 1.5)
    assert new.preparation.channels == (IntensityRule("fixed-zscore", -60.0, 210.0, None, 90.0, 40.0),)
    assert (new.labels, new.values, new.modality) == (("liver", "kidney_left"), (1, 2), "CT")


def test_residual_encoders_of_both_dialects_are_the_same() -> None:
    old = changed(lambda entry: entry.update(UNet_class_name="ResidualEncoderUNet"), OLD)
    assert read(changed(residual)).plan == read(old).plan
    assert read(old).plan.is_residual


def test_features_of_the_old_dialect_double_up_to_the_most() -> None:
    entry = {
        "UNet_base_num_features": 32,
        "unet_max_num_features": 320,
        "n_conv_per_stage_encoder": [2] * 6,
        "n_conv_per_stage_decoder": [2] * 5,
        "pool_op_kernel_sizes": [[1, 1, 1]] + [[2, 2, 2]] * 5,
        "conv_kernel_sizes": [[3, 3, 3]] * 6,
        "patch_size": [128, 128, 128],
    }
    plan = read(changed(lambda configuration: configuration.update(entry), OLD)).plan
    assert plan.features == (32, 64, 128, 256, 320, 320)
    spec = nnunet_spec(plan, 1, 25)
    assert backbone_of(spec).parameters == pytest.approx(31.2e6, rel=0.01), "TotalSegmentator's networks, as published"


def test_one_number_stands_for_all_levels_and_axes() -> None:
    def short(configuration: dict[str, Any]) -> None:
        arguments(configuration).update(
            kernel_sizes=3, strides=[1, 2, 2], n_conv_per_stage=2, n_conv_per_stage_decoder=1, features_per_stage=4
        )

    plan = read(changed(short)).plan
    assert plan.kernels_zyx == ((3, 3, 3),) * 3 and plan.strides_zyx == ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    assert (plan.encoder_blocks, plan.decoder_convolutions, plan.features) == ((2, 2, 2), (1, 1), (4, 4, 4))


NETWORKS = {
    "plain": lambda entry: None,
    "residual": residual,
    "residual, equal features": lambda entry: (residual(entry), arguments(entry).update(features_per_stage=[4, 4, 6])),
    "residual, blocks differ": lambda entry: (residual(entry), arguments(entry).update(n_blocks_per_stage=[1, 3, 2])),
    "no bias": lambda entry: arguments(entry).update(conv_bias=False),
    "residual, no bias": lambda entry: (residual(entry), arguments(entry).update(conv_bias=False)),
    "convolutions differ": lambda entry: arguments(entry).update(
        n_conv_per_stage=[1, 3, 2], n_conv_per_stage_decoder=[3, 1]
    ),
    "two levels": lambda entry: arguments(entry).update(
        n_stages=2,
        features_per_stage=[3, 5],
        kernel_sizes=[[1, 3, 5], [3, 3, 3]],
        strides=[[1, 1, 1], [1, 2, 4]],
        n_conv_per_stage=[2, 2],
        n_conv_per_stage_decoder=[2],
    ),
    "old": None,
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 7)])
def test_weights_are_counted_as_the_network_has_them(name: str, channels: int, classes: int) -> None:
    change = NETWORKS[name]
    plan = read(plans_with(OLD) if change is None else changed(change)).plan
    spec = nnunet_spec(plan, channels, classes)
    shapes = expected_shapes(spec)
    count = 0
    for shape in shapes.values():
        product = 1
        for side in shape:
            product *= side
        count += product
    assert backbone_of(spec).parameters == count


def test_what_a_configuration_inherits() -> None:
    configurations = {
        "base": {"spacing": [1, 1, 1], "patch_size": [8, 8, 8], "batch_size": 2},
        "middle": {"inherits_from": "base", "patch_size": [16, 16, 16]},
        "child": {"inherits_from": "middle", "batch_size": 7},
    }
    found = resolved(configurations, "child")
    assert (found["spacing"], found["patch_size"], found["batch_size"]) == ([1, 1, 1], [16, 16, 16], 7)
    plans = plans_with()
    plans["configurations"]["small"] = {"inherits_from": "3d_fullres", "spacing": [6.0, 3.0, 3.0]}
    assert read_plans(plans, DATASET, "small").preparation.spacing_zyx_mm == (6.0, 3.0, 3.0)
    assert read_plans(plans, DATASET, "small").plan == read(plans).plan


@pytest.mark.parametrize(
    ("configurations", "reason"),
    [
        ({"a": {"inherits_from": "a"}}, "inherits from itself"),
        ({"a": {"inherits_from": "b"}, "b": {"inherits_from": "a"}}, "inherits from itself"),
        ({"a": {"inherits_from": "gone"}}, "no configuration 'gone', only a"),
    ],
)
def test_what_inherits_from_nothing_is_refused(configurations: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        resolved(configurations, "a")


@pytest.mark.parametrize(
    ("scheme", "inside", "kind"),
    [
        ("ZScoreNormalization", False, "zscore"),
        ("ZScoreNormalization", True, "zscore-nonzero"),
        ("NoNormalization", False, "none"),
        ("RescaleTo01Normalization", False, "unit"),
        ("RGBTo01Normalization", True, "rgb"),
        ("CTNormalization", False, "fixed-zscore"),
    ],
)
def test_intensities_are_normalised_as_the_plans_say(scheme: str, inside: bool, kind: str) -> None:
    plans = changed(lambda entry: entry.update(normalization_schemes=[scheme], use_mask_for_norm=[inside]))
    assert read(plans).preparation.channels[0].kind == kind


def test_the_first_versions_had_other_names() -> None:
    plans = plans_with(OLD)
    plans["foreground_intensity_properties_by_modality"] = plans.pop("foreground_intensity_properties_per_channel")
    dataset = {key: value for key, value in DATASET.items() if key != "channel_names"} | {"modality": {"0": "CT"}}
    assert read(plans, dataset) == read(plans_with())


@pytest.mark.parametrize(
    ("reader", "transpose", "axes", "known"),
    [
        ("SimpleITKIO", [0, 1, 2], "ijk", False),
        ("NibabelIO", [0, 2, 1], "jik", False),
        ("SimpleITKIO", [2, 0, 1], "jki", False),
        ("NibabelIOWithReorient", [0, 1, 2], "RAS", True),
        ("SimpleITKIOWithReorient", [1, 0, 2], "RSA", True),
    ],
)
def test_axes(reader: str, transpose: list[int], axes: str, known: bool) -> None:
    """The array that nnU-Net transposes is z, y, x; axes are named x first."""
    model = read(plans_with(image_reader_writer=reader, transpose_forward=transpose))
    assert (model.preparation.axes, model.axes_are_known) == (axes, known)


def test_labels_are_ordered_by_their_numbers() -> None:
    labels = {"spleen": 3, "background": 0, "liver": 1, "kidney": 2, "ignore": 4}
    model = read(plans_with(), DATASET | {"labels": labels})
    assert (model.labels, model.values, model.regions) == (("liver", "kidney", "spleen"), (1, 2, 3), ())
    assert model.outputs == 4


def _architecture(**changes: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda entry: arguments(entry).update(changes)


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "2d": (lambda entry: entry.update(patch_size=[64, 64], spacing=[1.0, 1.0]), "2D model of nnU-Net"),
    "cascade": (lambda entry: entry.update(previous_stage="3d_lowres"), "second stage of a cascade"),
    "unknown network": (
        lambda entry: entry.update(
            architecture={"network_class_name": "a.primus.Primus", "arch_kwargs": {"depth": 12}}
        ),
        "'Primus'",
    ),
    "preprocessor": (lambda entry: entry.update(preprocessor_name="MyPreprocessor"), "'MyPreprocessor'"),
    "resampling": (lambda entry: entry.update(resampling_fn_data="resample_torch_fornnunet"), "resample_torch"),
    "no resampling": (
        lambda entry: entry.update(resampling_fn_probabilities="no_resampling_hack"),
        "no_resampling_hack",
    ),
    "splines": (lambda entry: entry["resampling_fn_data_kwargs"].update(order=1), "other settings"),
    "separate z": (lambda entry: entry["resampling_fn_data_kwargs"].update(force_separate_z=True), "other settings"),
    "scheme": (lambda entry: entry.update(normalization_schemes=["MyNormalization"]), "'MyNormalization'"),
    "two schemes": (lambda entry: entry.update(normalization_schemes=["NoNormalization"] * 2), "normalise 2 channels"),
    "batch norm": (_architecture(norm_op="torch.nn.modules.batchnorm.BatchNorm3d"), "norm_op BatchNorm3d"),
    "not affine": (_architecture(norm_op_kwargs={"affine": False}), "not known here"),
    "ReLU": (_architecture(nonlin="torch.nn.ReLU"), "nonlin ReLU"),
    "slope": (_architecture(nonlin_kwargs={"negative_slope": 0.2}), "negative_slope 0.2"),
    "order of layers": (_architecture(nonlin_first=True), "nonlin_first"),
    "squeezing": (_architecture(squeeze_excitation=True), "squeeze_excitation"),
    "lists of other lengths": (_architecture(strides=[[1, 1, 1]]), "one length"),
    "many features": (_architecture(features_per_stage=[2, 4, 10**9]), "from 1 to 4096"),
    "even kernel": (_architecture(kernel_sizes=[[2, 2, 2]] * 3), "even size"),
    "patch": (lambda entry: entry.update(patch_size=[16, 16, 18]), "does not halve evenly"),
    "large patch": (lambda entry: entry.update(patch_size=[16, 16, 4096]), "from 1 to 1024"),
    "no patch": (lambda entry: entry.pop("patch_size"), "cannot be read: the entry 'patch_size' is missing"),
    "spacing": (lambda entry: entry.update(spacing=[0, 1, 1]), "spacing"),
    "infinite": (lambda entry: _architecture(n_stages=float("inf"))(entry), "cannot be read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_line(name: str) -> None:
    change, reason = REFUSED[name]
    with pytest.raises(ModelError) as caught:
        read(changed(change))
    assert reason in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"background": 0, "a": 1, "b": 3}, "without gaps"),
        ({"a": 1, "b": 2}, "without gaps"),
        ({"background": 0, "a": "one"}, "cannot be read"),
        ([1, 2], "cannot be read"),
        ({"0": "background", "1": "liver"}, "nnU-Net v1"),
    ],
)
def test_labels_that_are_not_numbered_are_refused(labels: Any, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        read(plans_with(), DATASET | {"labels": labels})


def test_other_plans_are_refused() -> None:
    for plans in ({}, {"configurations": {}}, plans_with(image_reader_writer="Tiff3DIO"), [], None):
        with pytest.raises(ModelError):
            read(plans)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="'Tiff3DIO'"):
        read(plans_with(image_reader_writer="Tiff3DIO"))
    with pytest.raises(ModelError, match="axes"):
        read(plans_with(transpose_forward=[0, 0, 1]))
    with pytest.raises(ModelError, match="no configuration '3d_fullres', only 2d"):
        read(plans_with(configurations={"2d": copy.deepcopy(NEW)}))
    assert read(plans_with(foreground_intensity_properties_per_channel={"0": CT | {"std": 0.0}}))
