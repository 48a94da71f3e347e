"""CRFs of the papers by name: their pairwise terms and number of mean-field iterations."""

from __future__ import annotations

from dataclasses import dataclass, replace

from atrous.crf.kernels import Bilateral, Features, Gaussian, Normalization, PairwiseKernel
from atrous.errors import AtrousError, did_you_mean


@dataclass(frozen=True)
class CRFPreset:
    """A fully connected CRF: its pairwise terms and the number of mean-field iterations.

        CRFPreset(Gaussian(3, 3), Bilateral(4, 49, 5), iterations=10)

    `None` leaves a term out; `features` adds terms on features of your own. `dataclasses.replace` changes a preset.

    Raises: `AtrousError` for a term of another type.
    """

    gaussian: Gaussian | None = None
    bilateral: Bilateral | None = None
    features: tuple[Features, ...] = ()
    iterations: int = 10

    def __post_init__(self) -> None:
        for name, term, expected in (("gaussian", self.gaussian, Gaussian), ("bilateral", self.bilateral, Bilateral)):
            if not (term is None or isinstance(term, expected)):
                raise AtrousError(f"{name} is {term!r}, expected {expected.__name__}(w, ...) or None.")
        if not (isinstance(self.features, tuple) and all(isinstance(term, Features) for term in self.features)):
            raise AtrousError(f"features is {self.features!r}, expected a tuple of Features(values, w).")

    @property
    def terms(self) -> tuple[PairwiseKernel, ...]:
        """The pairwise terms that are not left out."""
        terms: tuple[PairwiseKernel | None, ...] = (self.gaussian, self.bilateral, *self.features)
        return tuple(term for term in terms if term is not None)


def _normalize_after(crf: CRFPreset) -> CRFPreset:
    """Change the terms of a CRF to normalization after filtering."""
    terms = {name: replace(getattr(crf, name), normalization=Normalization.AFTER) for name in ("gaussian", "bilateral")}
    return replace(crf, **terms)


_DEEPLAB = {
    "v1": CRFPreset(Gaussian(3, 3), Bilateral(5, 50, 10)),
    "v2": CRFPreset(Gaussian(3, 3), Bilateral(4, 49, 5)),
    "v2_resnet": CRFPreset(Gaussian(4, 1), Bilateral(5, 21, 3)),
}

PRESETS = {
    **_DEEPLAB,
    "crf_rnn": _normalize_after(CRFPreset(Gaussian(3, 3), Bilateral(5, 160, 3))),
    "krahenbuhl": CRFPreset(Gaussian(3, 3), Bilateral(10, 80, 13), iterations=5),
    **{f"{name}_released": _normalize_after(crf) for name, crf in _DEEPLAB.items()},
}
"""The CRFs of the papers.

Source: `v1`: DeepLab v1 (arXiv:1412.7062), w2 = 3 and sigma_gamma = 3 from section 4.1, the rest the defaults of its
released code. `v2`: DeepLab v2 (arXiv:1606.00915), the released script of the VGG-16 network. `v2_resnet`: the released
ResNet-101 test prototxt. `crf_rnn`: CRF as RNN (arXiv:1502.03240), as released, normalized after filtering.
`krahenbuhl`: the example of Krähenbühl's code and of pydensecrf, 5 updates.

DeepLab's papers do not state the normalization of the kernels. Its released code normalizes after filtering:
`v1_released`, `v2_released` and `v2_resnet_released`. `v1`, `v2` and `v2_resnet` normalize symmetrically, as pydensecrf
does.
"""


def get_preset(crf: str | CRFPreset) -> CRFPreset:
    """Return the CRF of a paper by name (a key of `PRESETS`); a `CRFPreset` is returned as it is.

    Raises: `AtrousError` for an unknown name or another type.
    """
    if isinstance(crf, CRFPreset):
        return crf
    if not isinstance(crf, str):
        raise AtrousError(f"crf is {crf!r}, expected CRFPreset(...) or a name: {', '.join(PRESETS)}.")
    if crf not in PRESETS:
        raise AtrousError(f"No CRF preset '{crf}'; there are {', '.join(PRESETS)}.{did_you_mean(crf, PRESETS)}")
    return PRESETS[crf]
