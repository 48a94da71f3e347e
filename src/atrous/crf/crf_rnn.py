"""CRF-RNN: mean-field inference as a layer that is trained together with the network.

Source: Zheng et al., "Conditional Random Fields as Recurrent Neural Networks", ICCV 2015, arXiv:1502.03240, section 4
and figure 1; initial values and the normalization after filtering as in the released Caffe layer. Departure: one weight
per class and kernel by default, as in the paper; the released layer stores matrices (`weight_matrices`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from atrous.crf.kernels import Normalization
from atrous.crf.torch_backend.mean_field import NormalizedFilter, apply_compatibility
from atrous.errors import AtrousError


class CRFRNN(nn.Module):
    """Refine the logits of any network by unrolled mean-field updates, with gradients to logits and parameters.

    Parameters: `spatial_weights` and `bilateral_weights` (num_classes,), `compatibility` (num_classes, num_classes),
    mu(receiver, sender), which starts as Potts: -1 on the diagonal. With `weight_matrices` the weights of both kernels
    are matrices (num_classes, num_classes) that start out diagonal, as in the released Caffe layer, whose training
    fills them.

    `sigma_alpha`, `sigma_gamma` in pixels, `sigma_beta` in levels of 0..255. `backend`: `auto` is numba for
    float32 on a CPU, torch for anything else.

    Source: section 4: `training_iterations` 5 and `iterations` 10 at test; released code: sigmas 160, 3, 3, weights
    3 and 5.
    Raises: `AtrousError` for no classes, and on shapes that do not match.
    """

    data_dependent = True
    """The sizes of its tensors depend on the image's values, so it cannot run on the "meta" device."""

    def __init__(
        self,
        num_classes: int,
        *,
        training_iterations: int = 5,
        iterations: int = 10,
        sigma_alpha: float = 160.0,
        sigma_beta: float = 3.0,
        sigma_gamma: float = 3.0,
        spatial_weight: float = 3.0,
        bilateral_weight: float = 5.0,
        weight_matrices: bool = False,
        normalization: Normalization = Normalization.AFTER,
        backend: Literal["auto", "numba", "torch"] = "auto",
    ) -> None:
        super().__init__()
        if num_classes < 1 or min(sigma_alpha, sigma_beta, sigma_gamma) <= 0:
            raise AtrousError(
                f"CRFRNN needs at least one class and positive sigmas, found {num_classes} classes, sigma_alpha "
                f"{sigma_alpha}, sigma_beta {sigma_beta}, sigma_gamma {sigma_gamma}."
            )
        self.training_iterations, self.iterations = training_iterations, iterations
        self.sigma_alpha, self.sigma_beta, self.sigma_gamma = sigma_alpha, sigma_beta, sigma_gamma
        self.normalization, self.backend = normalization, backend
        initial = torch.eye(num_classes) if weight_matrices else torch.ones(num_classes)
        self.spatial_weights = nn.Parameter(initial * spatial_weight)
        self.bilateral_weights = nn.Parameter(initial * bilateral_weight)
        self.compatibility = nn.Parameter(-torch.eye(num_classes))

    def filters(self, image: Tensor, dtype: torch.dtype) -> tuple[NormalizedFilter, NormalizedFilter]:
        """Build the spatial and the bilateral filter of images (N, 3, H, W) in 0..255."""
        count, _, height, width = image.shape
        rows = torch.arange(height, dtype=torch.float32, device=image.device).view(1, 1, -1, 1)
        columns = torch.arange(width, dtype=torch.float32, device=image.device).view(1, 1, 1, -1)
        position = torch.cat([columns.expand(count, 1, height, width), rows.expand(count, 1, height, width)], 1)
        color = image.detach().float() / self.sigma_beta
        spatial = (position / self.sigma_gamma).flatten(2).mT
        bilateral = torch.cat([position / self.sigma_alpha, color], 1).flatten(2).mT
        on_cpu = image.device.type == "cpu" and dtype == torch.float32
        automatic: Literal["numba", "torch"] = "numba" if on_cpu else "torch"
        backend = automatic if self.backend == "auto" else self.backend
        build, normalization = NormalizedFilter.build, self.normalization
        return build(spatial, normalization, backend), build(bilateral, normalization, backend)

    def saved_bytes(self, height: int, width: int) -> int:
        """Count the bytes that training saves for the backward pass of one image, in float32, without the lattices.

        Each update saves the marginals, both filtered maps, and their weighted sum.
        """
        maps = 4 * self.training_iterations
        return maps * len(self.spatial_weights) * height * width * torch.float32.itemsize

    def forward(self, logits: Tensor, image: Tensor) -> Tensor:
        """Refine logits by the colors of the image.

        Shape: logits (N, K, H, W); image (N, 3, H, W), uint8 or float in 0..255, not normalized. Returns
        (N, K, H, W).
        """
        classes = len(self.spatial_weights)
        expected = (logits.shape[0], 3, *logits.shape[2:])
        if logits.ndim != 4 or logits.shape[1] != classes or image.shape != expected:
            raise AtrousError(
                f"CRFRNN with {classes} classes expects logits (N, {classes}, H, W) and an image (N, 3, H, W), "
                f"found {tuple(logits.shape)} and {tuple(image.shape)}."
            )
        if not torch.compiler.is_compiling():
            return self._unroll(logits, image)
        if torch.compiler.is_dynamo_compiling() and torch.is_grad_enabled():  # the operator has no gradient
            return torch.compiler.disable(self._unroll)(logits, image)
        iterations = self.training_iterations if self.training else self.iterations
        return torch.ops.atrous.crf_rnn(
            logits, image, self.spatial_weights, self.bilateral_weights, self.compatibility,
            [self.sigma_alpha, self.sigma_beta, self.sigma_gamma], iterations, self.normalization.name,
        )  # fmt: skip

    def _unroll(self, logits: Tensor, image: Tensor) -> Tensor:
        spatial, bilateral = self.filters(image, logits.dtype)
        unary = logits.flatten(2).mT
        refined = unary
        for _ in range(self.training_iterations if self.training else self.iterations):
            marginals = refined.softmax(-1)
            messages = _weigh(spatial(marginals), self.spatial_weights)
            messages = messages + _weigh(bilateral(marginals), self.bilateral_weights)
            refined = unary - apply_compatibility(messages, self.compatibility.T)
        return refined.mT.view_as(logits)


def _weigh(filtered: Tensor, weights: Tensor) -> Tensor:
    """Weigh filtered probabilities (N, pixels, K) by class, or combine the classes by a matrix (receiver, sender)."""
    return filtered * weights if weights.ndim == 1 else filtered @ weights.T


@torch.library.custom_op("atrous::crf_rnn", mutates_args=())
def _crf_rnn(
    logits: Tensor,
    image: Tensor,
    spatial_weights: Tensor,
    bilateral_weights: Tensor,
    compatibility: Tensor,
    sigmas: list[float],
    iterations: int,
    normalization: str,
) -> Tensor:
    """Compute the layer as one operator of a graph, exported or compiled: a lattice's size depends on the image."""
    sigma_alpha, sigma_beta, sigma_gamma = sigmas
    layer = CRFRNN(
        len(spatial_weights),
        iterations=iterations,
        sigma_alpha=sigma_alpha,
        sigma_beta=sigma_beta,
        sigma_gamma=sigma_gamma,
        weight_matrices=spatial_weights.ndim == 2,
        normalization=Normalization[normalization],
    ).eval()
    parameters = {"spatial_weights": spatial_weights, "bilateral_weights": bilateral_weights}
    layer.load_state_dict(parameters | {"compatibility": compatibility}, assign=True)
    return layer._unroll(logits, image).contiguous()


@_crf_rnn.register_fake
def _(logits: Tensor, *_: object) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)
