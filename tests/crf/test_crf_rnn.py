"""CRF-RNN: equal to the mean field, differentiable to the last digit, and it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from atrous.crf import CRFRNN, dense_crf
from atrous.errors import AtrousError
from tests.crf.crf_samples import random_image, random_probabilities


def inputs(height: int = 10, width: int = 12, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    image = torch.from_numpy(random_image(height, width)).permute(2, 0, 1)[None]
    return torch.from_numpy(random_probabilities(classes, height, width))[None].log(), image


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_is_the_mean_field(backend: str) -> None:
    logits, image = inputs()
    layer = CRFRNN(4, backend=backend).eval()  # type: ignore[arg-type]
    expected = dense_crf(image[0].numpy(), logits[0].exp().numpy(), crf="crf_rnn", iterations=10)
    np.testing.assert_allclose(layer(logits, image).softmax(1)[0].detach(), expected, atol=1e-4)


def test_five_iterations_in_training_ten_at_test() -> None:
    logits, image = inputs()
    layer = CRFRNN(4)
    five, ten = CRFRNN(4, iterations=5).eval(), CRFRNN(4, iterations=10).eval()
    torch.testing.assert_close(layer.train()(logits, image), five(logits, image))
    torch.testing.assert_close(layer.eval()(logits, image), ten(logits, image))
    assert (five(logits, image) - ten(logits, image)).abs().max() > 1e-4


@pytest.mark.parametrize("training_iterations", [1, 5])
def test_saved_bytes_are_those_of_a_training_step(training_iterations: int) -> None:
    height, width = 20, 30
    logits, image = inputs(height, width)
    saved: dict[int, torch.Tensor] = {}

    def save(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.data_ptr()] = tensor
        return tensor

    layer = CRFRNN(4, training_iterations=training_iterations)
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        loss = layer(logits.requires_grad_(), image).sum()
    maps = [value for value in saved.values() if value.numel() == logits.numel()]
    assert loss.requires_grad
    assert layer.saved_bytes(height, width) == sum(value.nbytes for value in maps)


def test_gradcheck() -> None:
    """float64, to the logits and to every parameter, with parameters that are not symmetric."""
    logits, image = inputs(3, 4, 3)
    layer = CRFRNN(3, training_iterations=2, sigma_alpha=4, sigma_beta=30, sigma_gamma=1.5).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    names = [name for name, _ in layer.named_parameters()]

    def run(unary: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (unary, image))

    unary = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(run, (unary, *(p.detach().clone().requires_grad_() for p in layer.parameters())))


def test_a_compiled_layer_trains_and_infers_as_it_is() -> None:
    logits, image = inputs()
    layer = CRFRNN(4)
    compiled = torch.compile(layer, backend="aot_eager")
    gradients = []
    for run in (layer, compiled):
        layer.zero_grad()
        run(logits, image)[:, 1].sum().backward()
        gradients.append([parameter.grad for parameter in layer.parameters()])
    assert all(map(torch.equal, *gradients))
    with torch.no_grad():
        torch.testing.assert_close(compiled(logits, image), layer(logits, image))  # the iterations of training
        torch.testing.assert_close(compiled.eval()(logits, image), layer.eval()(logits, image))


@torch.no_grad()
def test_an_exported_layer_is_one_operator() -> None:
    logits, image = inputs()
    layer = CRFRNN(4).eval()
    with torch.enable_grad():
        program = torch.export.export(layer, (logits, image))
    assert "atrous.crf_rnn" in str(program.graph)
    torch.testing.assert_close(program.module()(logits, image), layer(logits, image))


def test_numba_gradient_is_torchs() -> None:
    logits, image = inputs()
    gradients = []
    for backend in ("numba", "torch"):
        layer, unary = CRFRNN(4, backend=backend), logits.clone().requires_grad_()  # type: ignore[arg-type]
        layer(unary, image)[:, 1].sum().backward()
        gradients.append([unary.grad, *(p.grad for p in layer.parameters())])
    for a, b in zip(*gradients, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_batch_and_float_images() -> None:
    logits, image = inputs()
    layer = CRFRNN(4).eval()
    both = layer(torch.cat([logits, logits.flip(3)]), torch.cat([image, image.flip(3)]).float())
    torch.testing.assert_close(both[:1], layer(logits, image))
    torch.testing.assert_close(both[1:], layer(logits.flip(3), image.flip(3)))


def test_learns() -> None:
    """Noisy labels of a two-colored image: training the layer lowers the loss below where it starts."""
    torch.manual_seed(0)
    image = torch.zeros(1, 3, 16, 16)
    image[..., 8:] = 200
    truth = (image[:, 0] > 0).long()
    logits = torch.stack([1.0 - truth, truth.float()], 1) + torch.randn(1, 2, 16, 16)
    layer = CRFRNN(2, sigma_alpha=6, spatial_weight=0.1, bilateral_weight=0.1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=3.0)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(layer(logits, image), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_diagonal_matrices_weigh_as_vectors_do() -> None:
    logits, image = inputs()
    vectors, matrices = CRFRNN(4).eval(), CRFRNN(4, weight_matrices=True).eval()
    assert matrices.spatial_weights.shape == matrices.bilateral_weights.shape == (4, 4)
    torch.testing.assert_close(matrices(logits, image), vectors(logits, image))


@torch.no_grad()
def test_a_row_of_a_weight_matrix_belongs_to_the_receiving_class() -> None:
    logits, image = inputs(classes=3)
    layer = CRFRNN(3, iterations=1, weight_matrices=True).eval()
    layer.bilateral_weights.zero_()
    layer.spatial_weights.zero_()
    layer.spatial_weights[0, 2] = 2.0  # class 0 receives from class 2; Potts subtracts -1 times the message
    spatial, _ = layer.filters(image, logits.dtype)
    message = spatial(logits.flatten(2).mT.softmax(-1)).mT.view_as(logits)[:, 2]
    expected = logits.clone()
    expected[:, 0] += 2 * message
    torch.testing.assert_close(layer(logits, image), expected)


@torch.no_grad()
def test_weight_matrices_are_exported_with_the_layer() -> None:
    logits, image = inputs()
    layer = CRFRNN(4, weight_matrices=True).eval()
    layer.spatial_weights.copy_(torch.rand(4, 4))
    program = torch.export.export(layer, (logits, image.float()))
    torch.testing.assert_close(program.module()(logits, image.float()), layer(logits, image.float()))


def test_bad_shapes() -> None:
    logits, image = inputs()
    with pytest.raises(AtrousError, match=r"expects logits \(N, 3, H, W\)"):
        CRFRNN(3)(logits, image)
    with pytest.raises(AtrousError, match=r"image \(N, 3, H, W\)"):
        CRFRNN(4)(logits, image.permute(0, 2, 3, 1))
    with pytest.raises(AtrousError, match="at least one class"):
        CRFRNN(0)
