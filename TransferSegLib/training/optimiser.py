"""The optimiser: Muon for the 3x3x3 convolutions, AdamW for the rest.

Muon (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks") replaces the momentum of a weight
matrix by the nearest orthogonal one, so that every direction of a layer learns at the same pace. In a network without
normalisation this is worth a lot: the same loss was reached in less than half of Adam's steps (measured on
``head_neck_ct``, width 8). ``torch.optim.Muon`` takes matrices only, and newer versions of torch than Slicer has.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import unwrap
from typing import Any

import torch
from torch import nn

#: AdamW's learning rate as a share of Muon's: of a network without normalisation, whose features may grow, and of one
#: with it, whose features keep their size, so that the head alone must make large logits of them.
ADAM_SHARE, ADAM_SHARE_NORMALISED = 0.05, 0.25
#: Coefficients of the quintic Newton-Schulz iteration, from the reference implementation.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


class MuonWithAdamW(torch.optim.Optimizer):
    """One optimiser with two kinds of parameter groups.

    ``hidden`` are Muon's, the weights of convolutions; biases, the first convolution and the heads are AdamW's, and so
    are the scales of normalisation layers, which do not decay.
    """

    # Torch wraps these to keep them out of torch.compile, and the first call of one imports all of the compiler, which
    # takes nearly as long as importing torch; nothing is compiled here.
    add_param_group = unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = unwrap(torch.optim.Optimizer.load_state_dict)

    def __init__(
        self,
        network: nn.Module,
        hidden: Sequence[nn.Parameter],
        weight_decay: float,
        precision: torch.dtype,
        momentum: float = 0.95,
        size_share: float = 0.0,
        adam_share: float = 0.0,
    ) -> None:
        """Sort the parameters; ``precision`` is that of the orthogonalisation. The learning rate is set before steps.

        ``adam_share`` is AdamW's learning rate as a share of Muon's (0: what suits the network).

        ``size_share`` is the power of a layer's size (``relative_sizes``) by which its steps grow: with 1 a step turns
        trained, large weights as far as it would turn fresh ones.
        """
        taken = {id(parameter) for parameter in hidden}
        scales = [
            parameter
            for module in network.modules()
            if isinstance(module, nn.modules.batchnorm._NormBase)
            for parameter in module.parameters()
        ]
        taken |= {id(parameter) for parameter in scales}
        others = [parameter for parameter in network.parameters() if id(parameter) not in taken]
        self._precision, self._size_share = precision, size_share
        self._adam_share = adam_share or (ADAM_SHARE_NORMALISED if scales else ADAM_SHARE)
        super().__init__(
            [
                {"params": list(hidden), "muon": True},
                {"params": others, "muon": False},
                *([{"params": scales, "muon": False, "weight_decay": 0.0}] if scales else []),
            ],
            {"lr": 0.0, "weight_decay": weight_decay, "momentum": momentum},
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; ``closure`` is not used."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            if group["muon"]:
                self._step_muon(parameters, group)
            else:
                for parameter in parameters:
                    self._step_adam(parameter, parameter.grad, group)

    def _step_muon(self, weights: list[torch.Tensor], group: dict[str, Any]) -> None:
        sizes = relative_sizes(weights) if self._size_share > 0 else [1.0] * len(weights)
        size_of = dict(zip(map(id, weights), sizes, strict=True))
        for alike in _alike(weights):
            directions = [self._direction(weight, group) for weight in alike]
            for weight, matrix in zip(alike, all_orthogonalised(directions, self._precision), strict=True):
                scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
                if self._size_share > 0:
                    scale *= size_of[id(weight)] ** self._size_share
                weight.add_(matrix.reshape(weight.shape), alpha=-group["lr"] * scale)

    def _direction(self, weight: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
        """Move the momentum of a layer's weights; return where they go, as a matrix, before orthogonalisation."""
        gradient, state = weight.grad, self.state[weight]
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        return gradient.lerp(state["momentum"], group["momentum"]).reshape(weight.shape[0], -1)

    def _step_adam(self, weight: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state.update(step=0, mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - 0.9)
        state["square"].lerp_(gradient.square(), 1 - 0.99)
        mean = state["mean"] / (1 - 0.9 ** state["step"])
        root = (state["square"] / (1 - 0.99 ** state["step"])).sqrt() + 1e-8
        weight.add_(mean / root, alpha=-group["lr"] * self._adam_share)


def relative_sizes(weights: Sequence[torch.Tensor]) -> list[float]:
    """Return how much larger layers' weights are than freshly initialised ones (He et al. 2015), each at least 1.

    A GPU is waited for once, not for each layer.
    """
    if not weights:
        return []
    norms = torch.stack([weight.norm() for weight in weights]).tolist()
    return [max(1.0, norm / (2.0 * weight.shape[0]) ** 0.5) for norm, weight in zip(norms, weights, strict=True)]


def _alike(weights: Sequence[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Return the weights in groups that are orthogonalised together: on a GPU those of one shape.

    There the time is that of starting computations, so few large ones take less. On a CPU each is alone: matrices of
    128 rows and more take 5 to 15 % longer together, smaller ones hardly any time.
    """
    groups: dict[Any, list[torch.Tensor]] = {}
    for weight in weights:
        key = id(weight) if weight.device.type == "cpu" else weight.shape
        groups.setdefault(key, []).append(weight)
    return list(groups.values())


def all_orthogonalised(matrices: Sequence[torch.Tensor], precision: torch.dtype) -> Sequence[torch.Tensor]:
    """Return what ``orthogonalised`` makes of matrices of one shape."""
    if len(matrices) == 1:
        return [orthogonalised(matrices[0], precision)]
    return orthogonalised(torch.stack(list(matrices)), precision).unbind()


def orthogonalised(matrix: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    """Return a matrix with the singular vectors of this one and singular values near 1 (0.7 to 1.2), in float32.

    Of several matrices (n, rows, columns) each one for itself. ``precision`` is that of the products; wide and tall
    matrices have at least float32, with two large products instead of ten.
    """
    tall = matrix.shape[-2] > matrix.shape[-1]
    work = matrix.mT if tall else matrix
    # As nearly every convolution's matrix: each of its inputs counts 27 times.
    is_wide = work.shape[-1] >= 2 * work.shape[-2]
    work = work.to(torch.promote_types(precision, torch.float32) if is_wide else precision)
    work = work / (work.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    work = _iterated_on_gram(work) if is_wide else _iterated(work)
    return (work.mT if tall else work).float()


def _iterated(work: torch.Tensor) -> torch.Tensor:
    """Return a matrix after the iterations: each multiplies it by a polynomial of its Gram matrix."""
    first, second, third = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = work @ work.mT
        work = first * work + (second * gram + third * gram @ gram) @ work
    return work


def _iterated_on_gram(work: torch.Tensor) -> torch.Tensor:
    """Return the same of a wide matrix, with two products of its size instead of ten.

    What all iterations multiply it by follows from its first Gram matrix, which is small. Not in half precision:
    rounded to it, a Gram matrix has eigenvalues below zero, and the iterations would not stay bounded.
    """
    first, second, third = _QUINTIC
    gram, product = work @ work.mT, None
    for _ in range(_ITERATIONS):
        factor = second * gram + third * gram @ gram
        factor.diagonal(dim1=-2, dim2=-1).add_(first)
        product = factor if product is None else factor @ product
        gram = factor @ gram @ factor
    assert product is not None
    return product @ work
