"""Requests and responses of the API: what the OpenAPI description says of them."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from atrous.card import Card
from atrous.crf.presets import PRESETS as CRF_PRESETS
from atrous.errors import did_you_mean
from atrous.inference.tta import PRESETS as TTA_PRESETS
from atrous.serve.limits import REASONS, ServiceError
from atrous.serve.negotiate import RESULT_FORMATS
from atrous.serve.networks import Model
from atrous.serve.options import CRF_ITERATIONS, CRF_SIGMA, CRF_WEIGHT, SegmentOptions, crf_with

PROBLEM_TYPE = "application/problem+json"


class Problem(BaseModel):
    """Why a request was refused, as RFC 9457 describes problems."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: Literal["about:blank"] = "about:blank"
    """Always "about:blank": the status and `code` say which problem it is."""
    title: str
    """The name of the HTTP status."""
    status: int
    """The HTTP status."""
    code: str
    """The reason, a key for programs."""
    detail: str
    """What is wrong, what was expected, and what to do."""

    @classmethod
    def of(cls, error: ServiceError) -> Problem:
        """Describe an error."""
        return cls(title=HTTPStatus(error.status).phrase, status=error.status, code=error.code, detail=str(error))


class Status(BaseModel):
    """The state of the service."""

    status: Literal["ok", "ready"]


class ModelInfo(BaseModel):
    """Weights of the service."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    """The id that requests name them by."""
    output_stride: int
    """The output stride of a request that names none."""
    possible_output_strides: tuple[int, ...]
    """The output strides at which the network runs."""
    card: Card
    """Network, classes, preprocessing, origin, license, and measured figures."""

    @classmethod
    def of(cls, model: Model) -> ModelInfo:
        """Describe a model; the digests of its training images, which may be many, are left out."""
        card = model.card.model_copy(update={"trained_images": ""})
        return cls(
            id=model.id,
            output_stride=model.output_stride,
            possible_output_strides=model.possible_output_strides,
            card=card,
        )


class ModelList(BaseModel):
    """The weights of the service; requests that name none use the first."""

    models: list[ModelInfo]


def _choice(names: Iterable[str]) -> Any:
    """Declare an option that is one of some names."""
    known = list(names)

    def check(name: str) -> str:
        if name not in known:
            raise ValueError(f"'{name:.100}' is unknown.{did_you_mean(name[:100], known)} Known: {', '.join(known)}")
        return name

    return Annotated[str, AfterValidator(check), WithJsonSchema({"type": "string", "enum": known})]


class SegmentQuery(BaseModel):
    """The options of a segmentation."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    weights: str | None = Field(default=None, max_length=200)
    """The id of the weights, one of `/v1/models`; by default the first."""
    output_stride: int | None = Field(default=None, ge=1, le=64)
    """Run the network at this output stride instead of its own: 8 is denser and slower than 16."""
    tta: _choice(TTA_PRESETS) = "none"  # type: ignore[valid-type]
    """Test-time augmentation of a paper."""
    crf: _choice(CRF_PRESETS) | None = None  # type: ignore[valid-type]
    """Refine the labels with the fully connected CRF of a paper."""
    crf_iterations: int | None = Field(default=None, ge=0, le=CRF_ITERATIONS[1])
    """Mean-field updates, instead of the preset's."""
    w1: float | None = Field(default=None, ge=CRF_WEIGHT[0], le=CRF_WEIGHT[1])
    """Weight of the CRF's bilateral kernel, instead of the preset's."""
    sigma_alpha: float | None = Field(default=None, ge=CRF_SIGMA[0], le=CRF_SIGMA[1])
    """Width of the CRF's bilateral kernel in pixels."""
    sigma_beta: float | None = Field(default=None, ge=CRF_SIGMA[0], le=CRF_SIGMA[1])
    """Width of the CRF's bilateral kernel in color levels of 0..255."""
    format: _choice(RESULT_FORMATS) | None = None  # type: ignore[valid-type]
    """The format of the result; by default what `Accept` prefers, or else `png`."""
    polygons: bool = False
    """Write COCO annotations as polygons instead of run lengths."""
    simplify: float = Field(default=0.0, ge=0, le=100)
    """Tolerance in pixels for the borders of polygons; at 0 they follow the edges of pixels exactly."""
    opacity: float = Field(default=0.55, ge=0, le=1)
    """Opacity of the classes in the overlay."""
    legend: bool = True
    """Draw the legend below the overlay."""

    def format_options(self) -> dict[str, Any]:
        """Return the options of the format of the result."""
        return self.model_dump(include={"polygons", "simplify", "opacity", "legend"})

    def options(self, *, probabilities: bool) -> SegmentOptions:
        """Return the options of the service; `probabilities` keeps those of the classes in the result."""
        crf = crf_with(
            self.crf, self.crf_iterations, w1=self.w1, sigma_alpha=self.sigma_alpha, sigma_beta=self.sigma_beta
        )
        return SegmentOptions(self.weights, self.output_stride, self.tta, crf, probabilities)


def problems(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Describe the responses for some of `REASONS`, for the OpenAPI description of a route."""
    by_status: dict[int | str, list[str]] = {}
    for code in codes:
        status, meaning = REASONS[code]
        by_status.setdefault(status, []).append(f"`{code}`: {meaning}")
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": "  \n".join(meanings), "content": {PROBLEM_TYPE: {"schema": schema}}}
        for status, meanings in by_status.items()
    }
