"""`dense_crf`: the fully connected CRF over an image and the class probabilities of a network.

    refined = dense_crf(image, probabilities, crf="v2")
    labels = dense_crf(image, probabilities, CRFPreset(Gaussian(3, 3), Bilateral(4, 67, 3)), output="labels")

Source: Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from atrous.crf.kernels import MatrixCompatibility, PairwiseKernel, Weight
from atrous.crf.presets import CRFPreset, get_preset
from atrous.crf.validation import (
    Array,
    checked_image,
    checked_maps,
    checked_mask,
    checked_probabilities,
    oriented_image,
)
from atrous.errors import AtrousError

DivergenceCallback = Callable[[int, float], None]


@dataclass(frozen=True)
class MeanFieldOptions:
    """Options of mean-field inference, the same for `DenseCRF` and `dense_crf`.

    `iterations`: mean-field updates. `prune`: classes whose probability is nowhere above this are left out of
    message passing; they keep their unary term. `tolerance`: stop once every marginal changes by less.
    `divergence_callback(step, value)`: called with the KL divergence, up to a constant, before each update and after
    the last.

    Raises: `AtrousError` for values out of range.
    """

    iterations: int = 10
    prune: float = 0.0
    tolerance: float = 0.0
    divergence_callback: DivergenceCallback | None = None

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise AtrousError(f"iterations is {self.iterations}, expected 0 or more.")
        if not 0 <= self.prune < 1:
            raise AtrousError(f"prune is {self.prune}, expected a probability in 0..1, 0 to keep every class.")
        if not self.tolerance >= 0:
            raise AtrousError(f"tolerance is {self.tolerance}, expected 0 (run every iteration) or more.")


class DenseCRF:
    """The CRF of one image, whose lattices are built once and serve any number of inferences.

    Use `dense_crf` unless one image is refined several times, with other probabilities, weights or iterations.

    Shape: image (H, W, 3) or (3, H, W) uint8. `ignore` (H, W) bool: pixels that take no part; they keep their
    probabilities and send no messages. `backend`: numba, or torch on `device`.
    Raises: `AtrousError` for an invalid image, mask or features.
    """

    def __init__(
        self,
        image: Any,
        *terms: PairwiseKernel,
        ignore: Any = None,
        backend: Literal["numba", "torch"] = "numba",
        device: Any = "cpu",
    ) -> None:
        array = checked_image(image)
        self.size = (array.shape[0], array.shape[1])
        self.terms, self.backend, self.device = terms, backend, device
        self.pixels = np.arange(array.shape[0] * array.shape[1], dtype=np.int32)
        features = [term.features(array) for term in terms]
        for each in features:
            if len(each) != self.pixels.size:
                raise AtrousError(f"features are of {len(each)} points, the image has {self.pixels.size} pixels.")
        if ignore is not None:
            used = ~checked_mask("ignore", ignore, self.size).ravel()
            self.pixels, features = self.pixels[used], [each[used] for each in features]
        self._features = features
        self._mean_field: Any = None

    @property
    def _module(self) -> Any:
        """The backend's `mean_field` module, imported on first use: it loads numba or torch."""
        if self.backend == "torch":
            from atrous.crf.torch_backend import mean_field as torch_backend

            return torch_backend
        from atrous.crf.numba_backend import mean_field as numba_backend

        return numba_backend

    @property
    def mean_field(self) -> Any:
        """The `MeanField` of the backend, whose lattices are built on first use."""
        if self._mean_field is None:
            normalizations = [term.normalization for term in self.terms]
            device = {"device": self.device} if self.backend == "torch" else {}
            self._mean_field = self._module.MeanField(self._features, normalizations, self.pixels, **device)
            self._features = []  # free the memory: from here on only the lattices are needed
        return self._mean_field

    def probabilities(
        self,
        maps: Array,
        options: MeanFieldOptions | None = None,
        *,
        maps_are_energies: bool = False,
        weights: Sequence[Weight] | None = None,
    ) -> Array:
        """Compute marginals (K, H, W) float32 from checked probabilities (K, H, W), or from energies of that shape.

        `weights`, one per term, replace the terms' own w: a search over them needs no new lattice.

        Raises: `AtrousError` for sizes or options that do not match.
        """
        out = np.empty((len(maps), self.size[0] * self.size[1]), np.float32)
        if self.pixels.size != out.shape[1]:
            out[:] = (_softmax(-maps) if maps_are_energies else maps).reshape(out.shape)
        state = self._infer(maps, options or MeanFieldOptions(), maps_are_energies, weights)
        if state is not None:
            state.write_probabilities(out)
        return out.reshape(maps.shape)

    def labels(
        self,
        maps: Array,
        options: MeanFieldOptions | None = None,
        *,
        maps_are_energies: bool = False,
        weights: Sequence[Weight] | None = None,
    ) -> Array:
        """Compute the arg-max of `probabilities`, (H, W) int64, without writing the marginals out."""
        out = np.empty(self.size[0] * self.size[1], np.int64)
        if self.pixels.size != out.size:
            out[:] = (maps.argmin(0) if maps_are_energies else maps.argmax(0)).ravel()
        state = self._infer(maps, options or MeanFieldOptions(), maps_are_energies, weights)
        if state is not None:
            state.write_labels(out)
        return out.reshape(self.size)

    def _infer(
        self, maps: Array, options: MeanFieldOptions, maps_are_energies: bool, weights: Sequence[Weight] | None
    ) -> Any:
        """Run mean field; returns the backend's `MeanFieldState`, or None where every pixel is ignored."""
        if maps.shape[1:] != self.size:
            raise AtrousError(
                f"The class maps are {maps.shape[1:]} (H, W), the image is {self.size}: resize one of them."
            )
        if options.prune and maps_are_energies:
            raise AtrousError("`prune` is a threshold on probabilities; with energies leave it at 0.")
        if options.prune and any(isinstance(term.compatibility, MatrixCompatibility) for term in self.terms):
            raise AtrousError("Classes cannot be pruned under a full compatibility matrix: leave `prune` at 0.")
        terms = self.terms
        if weights is not None:
            terms = tuple(replace(term, w=w) for term, w in zip(terms, weights, strict=True))  # type: ignore[type-var]
        compatibilities = [term.scaled_compatibility(len(maps)) for term in terms]
        if not self.pixels.size:
            return None
        unary = self._module.Unary.build(maps.reshape(len(maps), -1), energies=maps_are_energies, prune=options.prune)
        return self.mean_field.infer(
            unary, compatibilities, options.iterations,
            tolerance=options.tolerance, divergence_callback=options.divergence_callback,
        )  # fmt: skip


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(0))
    return np.asarray(powers / powers.sum(0))


def dense_crf(
    image: Any,
    probabilities: Any = None,
    crf: str | CRFPreset = "v2",
    *,
    energies: Any = None,
    ignore: Any = None,
    iterations: int | None = None,
    prune: float = 0.0,
    tolerance: float = 0.0,
    divergence_callback: DivergenceCallback | None = None,
    output: Literal["probabilities", "labels"] = "probabilities",
    backend: Literal["auto", "numba", "torch"] = "auto",
) -> Any:
    """Refine the class probabilities of a network by mean-field inference in the fully connected CRF.

    `crf`: a paper's CRF by name (a key of `PRESETS`), or your own `CRFPreset(Gaussian(...), Bilateral(...))`. Instead
    of probabilities, `energies` are the unaries themselves, minus logits; for partial labels see
    `probabilities_from_labels`.

    `ignore`: (H, W) bool, pixels that take no part. `iterations`: instead of the preset's. `prune`, `tolerance` and
    `divergence_callback`: see `MeanFieldOptions`. `output`: the refined probabilities, or their arg-max, the labels,
    for which no marginals are written out. `backend`: `auto` is numba on the CPU and torch on a GPU.

    Shape: image (H, W, 3) or (3, H, W) uint8; probabilities (K, H, W), summing to 1 over axis 0, numpy or torch, any
    float type (computed in float32). Returns float32 of that shape, or labels (H, W) int64, as numpy or as torch on
    the same device. Batches: a leading axis on all of image, probabilities and ignore.
    Source: Krähenbühl and Koltun 2011, algorithm 1.
    Raises: `AtrousError` for inputs of another type, shape or range; the message gives what was found and expected.
    """
    preset = get_preset(crf)
    options = MeanFieldOptions(
        preset.iterations if iterations is None else iterations, prune, tolerance, divergence_callback
    )
    if (probabilities is None) == (energies is None):
        inputs = "none" if energies is None else "both"
        raise AtrousError(f"Expected either probabilities or energies, found {inputs}.")
    _check_choice("backend", backend, ("auto", "numba", "torch"))
    _check_choice("output", output, ("probabilities", "labels"))
    unary = energies if probabilities is None else probabilities
    device = getattr(unary, "device", "cpu") if hasattr(unary, "detach") else None  # None: numpy
    if backend == "auto":
        backend = "numba" if getattr(device, "type", "cpu") == "cpu" else "torch"
    results = []
    for single_image, maps, mask in _images(image, unary, ignore):
        maps = checked_maps("energies", maps) if probabilities is None else checked_probabilities(maps)
        single_image = oriented_image(single_image, (maps.shape[1], maps.shape[2]))
        image_crf = DenseCRF(single_image, *preset.terms, ignore=mask, backend=backend, device=device or "cpu")
        compute = image_crf.labels if output == "labels" else image_crf.probabilities
        results.append(compute(maps, options, maps_are_energies=probabilities is None))
    result = np.stack(results) if len(getattr(unary, "shape", ())) == 4 else results[0]
    if device is None:
        return result
    import torch

    return torch.from_numpy(result).to(device)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        *others, last = (f"'{choice}'" for choice in choices)
        raise AtrousError(f"{name} is '{value}', expected {', '.join(others)} or {last}.")


def _images(image: Any, maps: Any, ignore: Any) -> list[tuple[Any, Any, Any]]:
    """Split a batch into its images, class maps and masks; anything but a batch is one image."""
    shape, images = tuple(getattr(maps, "shape", ())), tuple(getattr(image, "shape", ()))
    if len(shape) != 4 or 0 in shape:
        return [(image, maps, ignore)]
    if len(images) != 4 or images[0] != shape[0]:
        raise AtrousError(
            f"The class maps are a batch of shape {shape}, the image has shape {images}; expected as many "
            "images: (N, H, W, 3) or (N, 3, H, W)."
        )
    return list(zip(image, maps, [None] * shape[0] if ignore is None else ignore, strict=True))
