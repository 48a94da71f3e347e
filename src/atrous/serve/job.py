"""A request in progress: the steps from the bytes of an image to the encoded result, all of them run in threads."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from atrous.errors import AtrousError
from atrous.imaging.io import Pixels, decode_image
from atrous.imaging.pixel_limit import ImageTooLargeError
from atrous.inference.engines.engine import Engine
from atrous.inference.prediction import CoarsePrediction
from atrous.inference.preprocess import NetworkInput
from atrous.inference.refine import refine_labels
from atrous.inference.segmentation import Segmentation
from atrous.inference.segmenter import Segmenter
from atrous.serve.limits import Limits, ServiceError
from atrous.serve.options import SegmentOptions


class GivenUpError(Exception):
    """The end of work on a request that nobody waits for."""


@dataclass
class Job:
    """A request in progress.

    Attributes: `waited`, the seconds until work on it began; `seconds` of each stage so far; `submitted`, the time at
    which it began to wait for the network;
    `network_input`, None for an image that is segmented in windows; `segmentation`, the result.
    """

    options: SegmentOptions
    limits: Limits
    engine: Engine
    waited: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    submitted: float = 0.0
    network_input: NetworkInput | None = None

    def __post_init__(self) -> None:
        self._given_up = given_up = threading.Event()
        self.segmenter = Segmenter.from_engine(self.engine, tta=self.options.tta_config)
        # Not with `self`: in a cycle of references, images and labels would stay until the garbage collector comes.
        self.segmenter.on_progress = lambda done, total: _check(given_up)

    def give_up(self) -> None:
        """Let what remains to be done end with `GivenUpError`."""
        self._given_up.set()

    def check(self) -> None:
        """End the work on a request that was given up.

        Raises: `GivenUpError`.
        """
        _check(self._given_up)

    def decode(self, image: bytes | Pixels) -> None:
        """Decode the image.

        Raises: `ServiceError` (invalid_image, image_too_large).
        """
        try:
            self.pixels = decode_image(image, max_pixels=self.limits.pixels) if isinstance(image, bytes) else image
        except ImageTooLargeError as error:
            raise self._too_large() from error
        except AtrousError as error:
            raise ServiceError("invalid_image", str(error)) from error
        height, width = self.pixels.shape[:2]
        if height * width > self.limits.pixels:
            raise self._too_large()
        classes = len(self.segmenter.card.classes)
        if self.options.needs_probabilities and height * width * classes > self.limits.probability_values:
            raise ServiceError(
                "image_too_large",
                f"A CRF, and probabilities as a result, need {classes} values for each of {width} x {height} pixels, "
                f"more than {self.limits.probability_values / 1e6:.4g} million: scale the image down.",
            )

    def _too_large(self) -> ServiceError:
        return ServiceError(
            "image_too_large",
            f"The image is larger than {self.limits.pixels / 1e6:.4g} megapixels: scale it down or cut it.",
        )

    def preprocess(self) -> None:
        """Make the network's input."""
        self.network_input = self.segmenter.preprocess(self.pixels)

    def segment_alone(self) -> Segmentation:
        """Segment an image by itself, in windows if the network does not take it as a whole."""
        self.check()
        return self.segmenter(self.pixels, probabilities=self.options.needs_probabilities)

    def label(self, prediction: CoarsePrediction | Segmentation) -> None:
        """Compute the labels, and the probabilities if they are needed, from the network's scores."""
        self.network_input = None  # free the memory
        if isinstance(prediction, Segmentation):
            self.segmentation = prediction
        else:
            self.segmentation = self.segmenter.to_segmentation(
                self.pixels, prediction, probabilities=self.options.needs_probabilities
            )

    def refine(self) -> None:
        """Refine the labels by the CRF."""
        assert self.options.crf is not None
        self.segmentation = refine_labels(self.segmentation, self.options.crf)


def _check(given_up: threading.Event) -> None:
    if given_up.is_set():
        raise GivenUpError
