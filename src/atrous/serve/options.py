"""Options of a request, and the range of each that the service accepts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from atrous.errors import AtrousError, did_you_mean
from atrous.inference.tta import PRESETS, TTAConfig
from atrous.serve.limits import ServiceError

if TYPE_CHECKING:
    from atrous.crf import CRFPreset

CRF_ITERATIONS = (0, 20)
CRF_WEIGHT = (0.0, 100.0)
CRF_SIGMA = (1.0, 500.0)
"""The ranges of a CRF's parameters: narrower kernels would make a lattice of more points than the image has pixels."""


@dataclass(frozen=True)
class SegmentOptions:
    """Options of a request: the id of the weights (by default the first), and how they are run.

    `tta` is the name of a preset of test-time augmentation; `crf` refines the labels, by the name of a preset or with
    parameters in the ranges above; `probabilities` keeps the softmax over classes in the result.
    """

    weights: str | None = None
    output_stride: int | None = None
    tta: str = "none"
    crf: str | CRFPreset | None = None
    probabilities: bool = False

    @property
    def needs_probabilities(self) -> bool:
        """Whether the probabilities of all classes are computed at the size of the image."""
        return self.probabilities or self.crf is not None

    def check(self) -> None:
        """Check the options that do not depend on the network.

        Raises: `ServiceError` (invalid_option).
        """
        if self.tta not in PRESETS:
            raise ServiceError(
                "invalid_option",
                f"tta '{self.tta:.100}': no such preset.{did_you_mean(self.tta[:100], PRESETS)} "
                f"Known: {', '.join(PRESETS)}.",
            )
        if self.crf is not None:
            try:
                _check_crf(self.crf)
            except AtrousError as error:
                raise ServiceError("invalid_option", str(error)) from error

    @property
    def tta_config(self) -> TTAConfig:
        """The test-time augmentation of the preset."""
        return PRESETS[self.tta]


def crf_with(
    preset: str | None,
    iterations: int | None = None,
    *,
    w1: float | None = None,
    sigma_alpha: float | None = None,
    sigma_beta: float | None = None,
) -> CRFPreset | None:
    """Change some parameters of a paper's CRF; without a preset, None.

    Raises: `ServiceError` (invalid_option) for an unknown preset, or parameters without one.
    """
    parameters = {"w": w1, "sigma_alpha": sigma_alpha, "sigma_beta": sigma_beta}
    changes: dict[str, Any] = {name: value for name, value in parameters.items() if value is not None}
    if preset is None:
        if changes or iterations is not None:
            raise ServiceError("invalid_option", "Parameters of the CRF are given, but no crf, such as crf=v2.")
        return None
    from atrous.crf import Bilateral, get_preset

    try:
        crf = get_preset(preset)
    except AtrousError as error:
        raise ServiceError("invalid_option", str(error)) from error
    bilateral = replace(crf.bilateral or Bilateral(), **changes)
    return replace(crf, bilateral=bilateral, iterations=crf.iterations if iterations is None else iterations)


def _check_crf(crf: str | CRFPreset) -> None:
    from atrous.crf import get_preset

    preset = get_preset(crf)
    if preset.features:
        raise AtrousError("crf: features of your own are not accepted here: use a Gaussian and a bilateral kernel.")
    values: list[tuple[str, Any, tuple[float, float]]] = [("iterations", preset.iterations, CRF_ITERATIONS)]
    if preset.gaussian is not None:
        values += [("w2", preset.gaussian.w, CRF_WEIGHT), ("sigma_gamma", preset.gaussian.sigma_gamma, CRF_SIGMA)]
    if preset.bilateral is not None:
        values += [
            ("w1", preset.bilateral.w, CRF_WEIGHT),
            ("sigma_alpha", preset.bilateral.sigma_alpha, CRF_SIGMA),
            ("sigma_beta", preset.bilateral.sigma_beta, CRF_SIGMA),
        ]
    for name, value, (low, high) in values:
        if not (isinstance(value, (int, float)) and low <= value <= high):
            raise AtrousError(f"crf: {name} is {value!r}; a number from {low:g} to {high:g} is expected.")
