"""`dense_crf`: the fully connected CRF over an image and the class probabilities of a network.

    refined = dense_crf(image, probabilities, preset="v2")
    labels = dense_crf_labels(image, probabilities, gaussian=Gaussian(3, 3), bilateral=Bilateral(4, 67, 3))

*Source:* Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from atrous.crf.kernels import Bilateral, Features, Gaussian
from atrous.crf.kernels import preset as papers
from atrous.crf.numba_backend.lattice import Array
from atrous.crf.validation import checked_image, checked_maps, checked_mask, checked_probabilities, oriented_image
from atrous.errors import AtrousError

FromPreset = Literal["preset"]
Kernel = Gaussian | Bilateral | Features
Weights = Sequence[Any] | None


@dataclass(frozen=True)
class InferenceOptions:
    """How to infer: the options that `DenseCRF` and `dense_crf` share.

    `iterations`: mean-field updates. `prune`: classes whose probability is nowhere above it exchange no messages, which
    costs nothing where they are absent and leaves their share of each pixel to the unaries. `tolerance`: stop once no
    marginal changes by so much. `divergence(step, value)`: called with the KL divergence up to a constant.

    *Raises:* `AtrousError` for values out of range.
    """

    iterations: int = 10
    prune: float = 0.0
    tolerance: float = 0.0
    divergence: Callable[[int, float], None] | None = None

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise AtrousError(f"iterations is {self.iterations}, expected 0 or more")
        if not 0 <= self.prune < 1:
            raise AtrousError(f"prune is {self.prune}, expected a probability in 0..1, 0 to keep every class")
        if not self.tolerance >= 0:
            raise AtrousError(f"tolerance is {self.tolerance}, expected 0 (run every iteration) or more")


class DenseCRF:
    """The CRF of one image, whose lattices are built once and serve any number of inferences.

    Use `dense_crf` unless one image meets several sets of probabilities, weights or numbers of iterations.

    *Shape:* image (H, W, 3) or (3, H, W) uint8. `ignore` (H, W) bool: pixels that take no part; they keep their
    probabilities and no other pixel hears of them.

    *Raises:* `AtrousError` for an image, a mask or features that cannot be used.
    """

    def __init__(self, image: Any, *kernels: Kernel, ignore: Any = None) -> None:
        found = checked_image(image)
        self.size = (found.shape[0], found.shape[1])
        self.kernels = kernels
        self.pixels = np.arange(found.shape[0] * found.shape[1], dtype=np.int32)
        features = [kernel.features(found) for kernel in kernels]
        for each in features:
            if len(each) != self.pixels.size:
                raise AtrousError(f"features are of {len(each)} points, the image has {self.pixels.size} pixels")
        if ignore is not None:
            part = ~checked_mask("ignore", ignore, self.size).ravel()
            self.pixels, features = self.pixels[part], [each[part] for each in features]
        self._features = features
        self._field: Any = None

    @property
    def field(self) -> Any:
        """The `engine.MeanField` of the image, built when first needed."""
        if self._field is None:
            from atrous.crf.numba_backend.mean_field import MeanField

            kinds = [kernel.normalization for kernel in self.kernels]
            self._field = MeanField(self._features if self.pixels.size else [], kinds, self.pixels)
            self._features = []  # the lattice is all that is left to be known of them
        return self._field

    def probabilities(
        self, maps: Array, how: InferenceOptions, *, energies: bool = False, weights: Weights = None
    ) -> Array:
        """Marginals (K, H, W) float32 from checked probabilities, or energies, (K, H, W).

        `weights`, one per kernel, stand in for the kernels' own w: a search over them needs no new lattice.

        *Raises:* `AtrousError` for sizes or options that do not go together.
        """
        out = self._start(maps, energies)
        return self._infer(maps, how, energies, weights).probabilities(out).reshape(maps.shape)

    def labels(self, maps: Array, how: InferenceOptions, *, energies: bool = False, weights: Weights = None) -> Array:
        """The arg-max of `probabilities`, (H, W) int64, without writing the marginals out."""
        out = np.empty(self.size[0] * self.size[1], np.int64)
        if self.pixels.size != out.size:
            out[:] = (maps.argmin(0) if energies else maps.argmax(0)).ravel()
        return self._infer(maps, how, energies, weights).labels(out).reshape(self.size)

    def probabilities_in_torch(self, maps: Array, how: InferenceOptions, device: Any, *, energies: bool = False) -> Any:
        """As `probabilities`, computed by torch on `device` and left there."""
        import torch

        from atrous.crf.torch_backend.mean_field import refine

        couplings = self._couplings(maps, how, energies, None)
        out = torch.from_numpy(self._start(maps, energies, always=True)).to(device)
        if self.pixels.size:
            pixels = torch.from_numpy(self.pixels).long().to(device)
            given = torch.from_numpy(maps.reshape(len(maps), -1)).to(device)[:, pixels]
            out[:, pixels] = refine(
                given, energies, [torch.from_numpy(each).to(device) for each in self._features],
                [kernel.normalization for kernel in self.kernels],
                [torch.from_numpy(each).float().to(device) for each in couplings], how.iterations,
                prune=how.prune, tolerance=how.tolerance, divergence=how.divergence,
            )  # fmt: skip
        return out.view(maps.shape)

    def _start(self, maps: Array, energies: bool, always: bool = False) -> Array:
        """Room for marginals, which ignored pixels enter with their own probabilities."""
        out = np.empty((len(maps), self.size[0] * self.size[1]), np.float32)
        if always or self.pixels.size != out.shape[1]:
            out[:] = (_softmax(-maps) if energies else maps).reshape(out.shape)
        return out

    def _couplings(self, maps: Array, how: InferenceOptions, energies: bool, weights: Weights) -> list[Array]:
        if maps.shape[1:] != self.size:
            raise AtrousError(f"the class maps are {maps.shape[1:]} (H, W), the image is {self.size}")
        if how.prune and energies:
            raise AtrousError("`prune` is a threshold on probabilities; with energies leave it at 0")
        if how.prune and any(kernel.compatibility is not None for kernel in self.kernels):
            raise AtrousError("classes cannot be pruned under a full compatibility matrix: leave `prune` at 0")
        if weights is not None:
            return [np.asarray(weight, np.float64) for weight in weights]
        return [kernel.coupling(len(maps)) for kernel in self.kernels]

    def _infer(self, maps: Array, how: InferenceOptions, energies: bool, weights: Weights) -> Any:
        from atrous.crf.numba_backend.mean_field import Unary

        couplings = self._couplings(maps, how, energies, weights)
        unary = Unary.of(maps.reshape(len(maps), -1), energies=energies, prune=how.prune)
        return self.field.infer(
            unary, couplings if self.pixels.size else [], how.iterations,
            tolerance=how.tolerance, divergence=how.divergence,
        )  # fmt: skip


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(0))
    return np.asarray(powers / powers.sum(0))


def dense_crf(
    image: Any,
    probabilities: Any = None,
    *,
    energies: Any = None,
    preset: str = "v2",
    gaussian: Gaussian | FromPreset | None = "preset",
    bilateral: Bilateral | FromPreset | None = "preset",
    others: Sequence[Features] = (),
    iterations: int | None = None,
    ignore: Any = None,
    prune: float = 0.0,
    tolerance: float = 0.0,
    divergence: Callable[[int, float], None] | None = None,
    backend: Literal["auto", "numba", "torch"] = "auto",
) -> Any:
    """Refine the class probabilities of a network by mean-field inference in the fully connected CRF.

    `preset` names a paper's terms (see `atrous.crf.preset`), which `gaussian`, `bilateral` (`None` leaves a term out)
    and `iterations` replace; `others` adds terms on features of your own. Instead of probabilities, `energies` gives
    the unaries themselves, minus logits; for partial labels see `probabilities_from_labels`.

    `ignore`: (H, W) bool, pixels that take no part. `prune`, `tolerance` and `divergence`: see `InferenceOptions`.
    `backend`: numba on the CPU and torch on a GPU, unless told.

    *Shape:* image (H, W, 3) or (3, H, W) uint8; probabilities (K, H, W), summing to 1 over axis 0, numpy or torch, any
    float type (computed in float32). Returns float32 of that shape and kind, on the same device. Batches: a leading
    axis on all of image, probabilities and ignore.

    *Source:* Krähenbühl and Koltun 2011, algorithm 1.

    *Raises:* `AtrousError`, which says what was found and what was expected, for anything else.
    """
    terms = _terms(preset, gaussian, bilateral, others)
    how = InferenceOptions(
        papers(preset).iterations if iterations is None else iterations, prune, tolerance, divergence
    )
    return _run("probabilities", image, probabilities, energies, terms, how, ignore, backend)


def dense_crf_labels(
    image: Any,
    probabilities: Any = None,
    *,
    energies: Any = None,
    preset: str = "v2",
    gaussian: Gaussian | FromPreset | None = "preset",
    bilateral: Bilateral | FromPreset | None = "preset",
    others: Sequence[Features] = (),
    iterations: int | None = None,
    ignore: Any = None,
    prune: float = 0.0,
    tolerance: float = 0.0,
    divergence: Callable[[int, float], None] | None = None,
    backend: Literal["auto", "numba", "torch"] = "auto",
) -> Any:
    """The most probable labels: the arg-max of what `dense_crf` gives, without writing the marginals out.

    *Shape:* as `dense_crf`; returns (H, W) int64, with a leading axis for batches.

    *Raises:* `AtrousError` as `dense_crf`.
    """
    terms = _terms(preset, gaussian, bilateral, others)
    how = InferenceOptions(
        papers(preset).iterations if iterations is None else iterations, prune, tolerance, divergence
    )
    return _run("labels", image, probabilities, energies, terms, how, ignore, backend)


def _terms(
    paper: str,
    gaussian: Gaussian | FromPreset | None,
    bilateral: Bilateral | FromPreset | None,
    others: Sequence[Features],
) -> list[Kernel]:
    found = papers(paper)
    smoothness = found.gaussian if gaussian == "preset" else gaussian
    appearance = found.bilateral if bilateral == "preset" else bilateral
    for name, value, kind in (("gaussian", smoothness, Gaussian), ("bilateral", appearance, Bilateral)):
        if not (value is None or isinstance(value, kind)):
            raise AtrousError(f"{name} is {value!r}, expected {kind.__name__}(w, ...) or None")
    return [kernel for kernel in (smoothness, appearance, *others) if not (kernel is None or isinstance(kernel, str))]


def _run(
    what: Literal["probabilities", "labels"], image: Any, probabilities: Any, energies: Any,
    terms: list[Kernel], how: InferenceOptions, ignore: Any, backend: str,
) -> Any:  # fmt: skip
    if (probabilities is None) == (energies is None):
        raise AtrousError("give either probabilities or energies, one of them")
    if backend not in ("auto", "numba", "torch"):
        raise AtrousError(f"backend is '{backend}', expected 'auto', 'numba' or 'torch'")
    given = energies if probabilities is None else probabilities
    shape = tuple(getattr(given, "shape", ()))
    device = getattr(given, "device", "cpu") if hasattr(given, "detach") else None  # None: numpy
    if len(shape) == 4 and 0 not in shape:
        pictures = tuple(getattr(image, "shape", ()))
        if len(pictures) != 4 or pictures[0] != shape[0]:
            raise AtrousError(
                f"the class maps are a batch of shape {shape}, the image has shape {pictures}; expected as many "
                "images: (N, H, W, 3) or (N, 3, H, W)"
            )
        items = list(zip(image, given, [None] * shape[0] if ignore is None else ignore, strict=True))
    else:
        items = [(image, given, ignore)]
    results = []
    for picture, maps, mask in items:
        found = checked_maps("energies", maps) if probabilities is None else checked_probabilities(maps)
        crf = DenseCRF(oriented_image(picture, (found.shape[1], found.shape[2])), *terms, ignore=mask)
        if backend == "torch" or (backend == "auto" and getattr(device, "type", "cpu") != "cpu"):
            marginals = crf.probabilities_in_torch(found, how, device or "cpu", energies=probabilities is None)
            results.append((marginals if what == "probabilities" else marginals.argmax(0)).cpu().numpy())
        else:
            results.append(getattr(crf, what)(found, how, energies=probabilities is None))
    stacked = np.stack(results) if len(shape) == 4 else results[0]
    if device is None:
        return stacked
    import torch

    return torch.from_numpy(stacked).to(device)
