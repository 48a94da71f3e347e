from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from atrous.inference.prediction import CoarsePrediction


@pytest.mark.parametrize("merge", ["mean_logits", "mean_softmax", "mean_probabilities"])
@pytest.mark.parametrize("image_size", [(21, 30), (40, 55)])
def test_views_are_resized_cropped_and_averaged(merge: str, image_size: tuple[int, int]) -> None:
    views = torch.randn(2, 4, 6, 8)
    if merge == "mean_probabilities":
        views = views.softmax(1)

    def resize(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return F.interpolate(x, size=size, mode="bilinear", align_corners=True)

    resized = resize(views, (24, 32))[..., :21, :30]
    expected = (resized.softmax(1) if merge == "mean_softmax" else resized).mean(0)
    expected = expected if image_size == (21, 30) else resize(expected[None], image_size)[0]
    prediction = CoarsePrediction(tuple(views), (24, 32), (21, 30), image_size, align_corners=True, merge=merge)
    probabilities = expected.softmax(0) if merge == "mean_logits" else expected
    torch.testing.assert_close(prediction.probabilities(), probabilities, rtol=1e-4, atol=1e-5)
    logits = expected if merge == "mean_logits" else expected.log()
    torch.testing.assert_close(prediction.logits(), logits, rtol=1e-4, atol=1e-5)
    best = probabilities.topk(2, 0).values
    clear = (best[0] - best[1] > 1e-4).numpy()
    labels = prediction.labels()
    assert labels.shape == image_size
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(labels[clear], probabilities.argmax(0).numpy()[clear])


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("image_size", [(21, 30), (40, 55)])
def test_arrays_and_tensors_give_the_same_bits(align_corners: bool, image_size: tuple[int, int]) -> None:
    view = torch.randn(5, 6, 8)
    of_tensor, of_array = (
        CoarsePrediction((x,), (24, 32), (21, 30), image_size, align_corners=align_corners)
        for x in (view, view.numpy())
    )
    np.testing.assert_array_equal(of_array.labels(), of_tensor.labels())
    assert torch.equal(of_array.logits(), of_tensor.logits())
    assert torch.equal(of_array.probabilities(), of_tensor.probabilities())


def test_labels_of_several_arrays_are_those_of_tensors() -> None:
    views = torch.randn(2, 4, 6, 8)
    of_tensors, of_arrays = (
        CoarsePrediction(tuple(x), (24, 32), (21, 30), (21, 30), align_corners=True, merge="mean_softmax")
        for x in (views, views.numpy())
    )
    np.testing.assert_array_equal(of_arrays.labels(), of_tensors.labels())
