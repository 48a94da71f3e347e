"""Run a network by PyTorch: as it is, with folded normalization, or compiled."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from atrous.card import Card
from atrous.errors import AtrousError
from atrous.inference.engines.convert import TRACED_SIZE, ScoreModule, describe_network, module_device
from atrous.inference.engines.engine import Batch, Engine
from atrous.inference.engines.metadata import NetworkMetadata, Precision
from atrous.layers.mode import evaluation_mode
from atrous.layers.norm import BatchNorm2d
from atrous.models import SegmentationModel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

_LOCKS: WeakKeyDictionary[nn.Module, threading.Lock] = WeakKeyDictionary()
"""A lock for each network that is run as it is: its modules' modes and hooks are shared by all threads and engines."""


class EagerEngine(Engine):
    """Run a network as it is, so that changes of its weights take effect.

    Scores are always those of evaluation mode: a network in training mode is switched for the call, and each module's
    mode is restored. Threads that call take turns; none may train the network meanwhile.

    Shape: (N, 3, H, W) float32 -> (N, K, h, w) tensor on the network's device.
    """

    name: ClassVar[str] = "eager"
    precision: Precision = "float32"

    def __init__(self, model: SegmentationModel, card: Card, device: str) -> None:
        self.model = model.eval().to(device)
        self.device = device
        self._card = card
        self._lock = _LOCKS.setdefault(model, threading.Lock())
        self._metadata: NetworkMetadata | None = None

    @property
    def align_corners(self) -> bool:
        return self.model.align_corners

    @property
    def output_stride(self) -> int:
        return self.model.output_stride

    @property
    def metadata(self) -> NetworkMetadata:  # type: ignore[override]  # that of the present output stride
        if self._metadata is None or self._metadata.output_stride != self.model.output_stride:
            with self._lock:  # a forward pass of another thread would be measured, too
                self._metadata = describe_network(self.model, self._card)
        return self._metadata

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Tensor:
        image = torch.as_tensor(batch).to(self.device)
        with self._lock, evaluation_mode(self.model):
            return self.model.scores(image) if self.model.output_is_resized_scores else self.model(image)


class TorchEngine(Engine):
    """Run a network by PyTorch with batch normalization folded into convolutions, and channels last in memory.

    The network itself is changed: give it a copy, or one that nothing else uses.

    Shape: (N, 3, H, W) float32 -> (N, K, h, w) float32 tensor on the engine's device.
    Raises: `AtrousError` for a precision other than float32 and bfloat16, or bfloat16 for a network with a CRF.
    """

    name: ClassVar[str] = "torch"

    def __init__(
        self, model: SegmentationModel, card: Card, *, device: str = "cpu", precision: Precision = "float32"
    ) -> None:
        if precision not in _DTYPES or (precision == "bfloat16" and not model.is_convertible):
            raise AtrousError(f"{type(model).__name__} cannot run in {precision} by torch: use precision 'float32'.")
        self.device = device
        self.precision = precision
        model.eval().to(device)
        self.metadata = describe_network(model, card)
        self._memory_format = torch.contiguous_format
        if model.is_convertible:  # the iterations of a CRF would amplify differences in the last bits to above 1e-3
            fold_batch_norm(model)
            self._memory_format = torch.channels_last
        model.to(_DTYPES[precision]).to(memory_format=self._memory_format)  # type: ignore[call-overload]
        self._module: Callable[[Tensor], Tensor] = ScoreModule(model)

    def __call__(self, batch: Batch) -> Tensor:
        with torch.inference_mode():
            image = torch.as_tensor(batch).to(self.device, _DTYPES[self.precision], memory_format=self._memory_format)
            return self._module(image).float()


class CompiledEngine(TorchEngine):
    """Run a network by `torch.compile`: once compiled, which takes a minute, it serves images of any size.

    One image and a batch are compiled separately, and so may be small and large images. A network whose pooling the
    compiler cannot handle at unknown sizes (DeepLab v1) is compiled for each size.

    Raises: `AtrousError` where the compiler of torch does not work, such as without a C++ compiler.
    """

    name: ClassVar[str] = "compile"

    def __init__(
        self, model: SegmentationModel, card: Card, *, device: str = "cpu", precision: Precision = "float32"
    ) -> None:
        super().__init__(model, card, device=device, precision=precision)
        self._original = self._module
        self._module = torch.compile(self._original, dynamic=True)
        self._any_size = True

    def __call__(self, batch: Batch) -> Tensor:
        try:
            return super().__call__(batch)
        except torch._dynamo.exc.TorchDynamoException as error:
            if self._any_size:
                self._any_size = False
                self._module = torch.compile(self._original, dynamic=False)
                return self(batch)
            reason = str(error).strip().splitlines()[0]
            raise AtrousError(f"torch.compile failed ({reason}): use the engine 'torch'.") from error


@torch.no_grad()
def fold_batch_norm(model: SegmentationModel) -> SegmentationModel:
    """Fold each batch normalization that directly follows a convolution into the convolution's weights.

    One forward pass on a small image finds them: those that normalize the output of one convolution, which nothing else
    uses. A folded layer leaves an identity, or its activation. Returns the model itself, in evaluation mode, for
    inference only.
    """
    convolutions = {id(layer.weight): layer for layer in model.modules() if isinstance(layer, nn.Conv2d)}
    recorder = _Recorder(set(convolutions))
    with recorder:
        model.eval().scores(torch.zeros(TRACED_SIZE, device=module_device(model)))
    following = recorder.normalizations()
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if not isinstance(norm, nn.BatchNorm2d) or id(norm.running_mean) not in following:
                continue
            assert norm.running_mean is not None
            assert norm.running_var is not None
            conv = convolutions[following[id(norm.running_mean)]]
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            )
            rest = norm.without_normalization() if isinstance(norm, BatchNorm2d) else nn.Identity()
            setattr(parent, name, rest)
    return model


class _Recorder(TorchDispatchMode):
    """Record what uses the outputs of convolutions, by the identities of weights and of running means."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self._weights = weights
        self._outputs: dict[int, tuple[int, Tensor]] = {}  # of each output its convolution; kept, so that ids stay
        self._uses: dict[int, list[int | None]] = defaultdict(list)  # of each output: running means, None for others
        self._inputs: dict[int, set[int | None]] = defaultdict(set)  # of each running mean: convolutions, None if other

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.name()
        mean = id(args[3]) if "batch_norm" in name else None
        if mean is not None:
            self._inputs[mean].add(self._outputs.get(id(args[0]), (None,))[0])
        for value in tree_leaves((args, kwargs)):
            if id(value) in self._outputs:
                self._uses[id(value)].append(mean)
        if name == "aten::convolution" and id(args[1]) in self._weights:
            self._outputs[id(result)] = id(args[1]), result
        return result

    def normalizations(self) -> dict[int, int]:
        """Map the running mean of each normalization that can be folded to the weight of its convolution."""
        means: dict[int, set[int | None]] = defaultdict(set)
        for output, (weight, _) in self._outputs.items():
            uses = self._uses[output]
            means[weight].add(uses[0] if len(uses) == 1 else None)
        return {
            mean: weight
            for weight, (mean, *others) in means.items()
            if mean is not None and not others and self._inputs[mean] == {weight}
        }
