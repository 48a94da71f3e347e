from __future__ import annotations

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from atrous import AtrousError
from atrous.backbones.timm_layers import NormAct
from atrous.inference.engines.torch import CompiledEngine, EagerEngine, TorchEngine, fold_batch_norm
from tests.inference.engines.examples import SIX, SIZES, eager_scores, images, relative_difference, small_network
from tests.inference.networks import SmallNetwork, letter_card


def num_norms(model: nn.Module) -> int:
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())


@pytest.mark.parametrize("name", SIX)
def test_folding_keeps_the_scores(name: str) -> None:
    model = small_network(name)
    folded = fold_batch_norm(copy.deepcopy(model))
    auxiliary = getattr(folded, "auxiliary", None)  # a second head, which scores do not use
    assert num_norms(folded) == (0 if auxiliary is None else num_norms(auxiliary))
    for size in SIZES:
        assert relative_difference(eager_scores(folded, images(*size)), eager_scores(model, images(*size))) < 1e-4


class Unusual(SmallNetwork):
    """Normalizations of which only the first can be folded."""

    def __init__(self) -> None:
        super().__init__(False)
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.used_twice = nn.Conv2d(5, 5, 1)
        self.norm_of_one_use = nn.BatchNorm2d(5)
        self.shared = nn.Conv2d(5, 5, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(5) for _ in range(2))
        self.norm_of_a_sum = nn.BatchNorm2d(5)
        for norm in self.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.uniform_(norm.weight, 0.5, 2)
                nn.init.normal_(norm.bias)
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)

    def scores(self, image: Tensor) -> Tensor:
        x = self.norm(self.conv(image))
        y = self.used_twice(x)
        x = self.norm_of_one_use(y) + y
        for norm in self.norms:
            x = norm(self.shared(x))
        return self.norm_of_a_sum(x + image[:, :1])


def test_the_activation_of_a_folded_normalization_stays() -> None:
    """In networks of timm, normalization and activation are one layer."""
    model = small_network()
    conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
    norm = NormAct(3, eps=1e-5, momentum=0.1, drop=nn.Identity(), act=nn.ReLU())
    norm.running_mean.normal_()
    model.stem = nn.Sequential(conv, norm)
    scores = type(model).scores
    model.scores = lambda image: scores(model, model.stem(image))
    x = torch.randn(1, 3, 20, 30)
    expected = model.stem.eval()(x)
    fold_batch_norm(model)
    assert num_norms(model.stem) == 0
    torch.testing.assert_close(model.stem(x), expected)


def test_only_what_can_be_folded_is() -> None:
    model = Unusual().eval()
    folded = fold_batch_norm(copy.deepcopy(model))
    assert isinstance(folded.norm, nn.Identity)
    assert num_norms(folded) == num_norms(model) - 1
    batch = images(2, 20, 30)
    assert relative_difference(eager_scores(folded, batch), eager_scores(model, batch)) < 1e-5


def test_the_rates_of_a_folded_network_follow_the_stride() -> None:
    model = small_network()
    folded = fold_batch_norm(copy.deepcopy(model))
    batch = images(1, 97, 65)
    for stride in (8, 32):
        expected = eager_scores(model.set_output_stride(stride), batch)
        assert relative_difference(eager_scores(folded.set_output_stride(stride), batch), expected) < 1e-4


def test_bfloat16_is_close() -> None:
    model = small_network()
    engine = TorchEngine(copy.deepcopy(model), model.card, precision="bfloat16")
    difference = relative_difference(engine(images(1, 65, 97)).clone(), eager_scores(model, images(1, 65, 97)))
    assert 1e-4 < difference < 0.1  # other than float32, and not far from it


@pytest.mark.parametrize(("name", "precision"), [("crf_rnn.vgg16", "bfloat16"), ("deeplab_v3.mobilenet_v2", "int8")])
def test_an_impossible_precision(name: str, precision: str) -> None:
    model = small_network(name)
    with pytest.raises(AtrousError, match=f"cannot run in {precision} by torch"):
        TorchEngine(model, model.card, precision=precision)


def test_an_eager_engine_follows_the_network() -> None:
    model = small_network()
    engine = EagerEngine(model, model.card, "cpu")
    batch = images(1, 65, 65)
    assert relative_difference(engine(batch).clone(), eager_scores(model, batch)) == 0
    model.set_output_stride(8)
    assert (engine.output_stride, engine.metadata.output_stride) == (8, 8)
    nn.init.zeros_(model.classifier.weight)
    nn.init.zeros_(model.classifier.bias)
    assert not engine(batch).any()


def test_an_eager_engine_computes_in_evaluation_mode_and_restores_the_modes() -> None:
    model = Unusual()
    model.norm.eval()
    modes = [module.training for module in model.modules()]
    engine = EagerEngine(model, letter_card(False), "cpu")
    batch = images(2, 20, 30)
    expected = engine(batch).clone()
    for module, training in zip(model.modules(), modes, strict=True):
        module.training = training
    before = copy.deepcopy(model.state_dict())
    assert torch.equal(engine(batch), expected)
    assert engine.metadata.bytes_per_pixel > 0
    assert [module.training for module in model.modules()] == modes
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)


def test_the_memory_is_measured_without_images_of_other_threads() -> None:
    model = SmallNetwork(False)
    expected = EagerEngine(model, letter_card(False), "cpu").metadata.bytes_per_pixel
    engines = [EagerEngine(model, letter_card(False), "cpu") for _ in range(2)]
    small, large = images(1, 129, 129), images(1, 1000, 1000)
    measuring, run = threading.Event(), model.body.forward

    def forward(x: Tensor) -> Tensor:
        if x.shape == small.shape:
            measuring.set()
            time.sleep(0.3)  # in which another thread could run its image through the hooks
        return run(x)

    model.body.forward = forward
    with ThreadPoolExecutor(3) as executor:
        metadata = executor.submit(lambda: engines[0].metadata)
        assert measuring.wait(60)
        scores = [executor.submit(engine, large) for engine in engines]
        assert metadata.result().bytes_per_pixel == expected
    assert all(each.result().shape == (1, 5, 250, 250) for each in scores)


@pytest.mark.slow
def test_one_compilation_serves_every_size() -> None:
    model = SmallNetwork(False)
    engine = CompiledEngine(copy.deepcopy(model), letter_card(False))
    engine(images(1, 161, 200))
    engine(images(2, 161, 200))
    torch._dynamo.utils.counters.clear()
    for size in ((1, 120, 91), (2, 120, 91), (3, 97, 170), (1, 230, 161)):
        assert relative_difference(engine(images(*size)).clone(), eager_scores(model, images(*size))) < 1e-3
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise torch._dynamo.exc.TorchDynamoException("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", lambda *arguments, **options: fail)
    engine = CompiledEngine(SmallNetwork(False), letter_card(False))
    with pytest.raises(AtrousError, match=r"torch.compile failed \(no C\+\+ compiler\): use the engine 'torch'"):
        engine(images(1, 20, 20))
