"""ClassMix: paste the pixels of half of the classes of one sample onto another.

Source: Olsson et al., arXiv 2007.07936, section 3.1, there with predicted labels of unlabeled images; here with the
ground truth of both.
"""

from __future__ import annotations

import numpy as np

from atrous.errors import AtrousError
from atrous.imaging.io import Pixels
from atrous.imaging.labels import Labels


def mix_classes(
    target: tuple[Pixels, Labels], source: tuple[Pixels, Labels], rng: np.random.Generator, *, ignore_index: int = 255
) -> tuple[Pixels, Labels]:
    """Paste half of the classes of a source, chosen at random, onto a target of the same size.

    Of an odd number of classes the larger half is pasted; ignored pixels never are.

    Shape: images (H, W, 3), labels (H, W), of both -> the same.
    Raises: `AtrousError` for samples of different sizes.
    """
    (image, labels), (source_image, source_labels) = target, source
    if labels.shape != source_labels.shape:
        raise AtrousError(
            f"class_mix mixes samples of one size, found {labels.shape} and {source_labels.shape}: crop or resize them."
        )
    classes = np.unique(source_labels)
    classes = classes[classes != ignore_index]
    pasted = np.isin(source_labels, rng.choice(classes, (len(classes) + 1) // 2, replace=False))
    return np.where(pasted[..., None], source_image, image), np.where(pasted, source_labels, labels)
