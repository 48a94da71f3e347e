"""FSDP: parameters, gradients and the optimizer's moments shared out over the processes.

DDP keeps all of them on each device, which is faster where they fit. Here each process keeps its share; a network's
backbone and its head are gathered as they run. To be judged, exported or kept, a network is put together again.

Source: PyTorch `torch.distributed.fsdp.fully_shard`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from atrous.models import SegmentationModel


def shard(model: SegmentationModel, mesh: DeviceMesh) -> None:
    """Share out a network over the processes of a mesh."""
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # channels last cannot be shared out
    for part in (model.backbone, model):
        fully_shard(part, mesh=mesh)
    register_fsdp_forward_method(model, "training_outputs")


def is_sharded(model: nn.Module) -> bool:
    """Whether a network is shared out."""
    return isinstance(model, FSDPModule)


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of a network, put together where it is shared out; all processes have to ask for it."""
    return {name: whole(value) for name, value in model.state_dict().items()}


def whole(value: Tensor) -> Tensor:
    """A tensor, put together where it is shared out; all processes have to ask for it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor where a parameter is: on its device, shared out as it is, at least as precise."""
    value = value.to(parameter.device, torch.promote_types(value.dtype, parameter.dtype))
    if isinstance(parameter, DTensor):
        return distribute_tensor(value, parameter.device_mesh, parameter.placements)
    return value


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state of an optimizer by the names of the parameters, put together; all processes have to ask for it."""
    names = {id(value): name for name, value in model.named_parameters()}
    order = [names[id(value)] for group in optimizer.param_groups for value in group["params"]]
    found = optimizer.state_dict()
    return {
        "state": {
            order[index]: {key: whole(value) if isinstance(value, Tensor) else value for key, value in entry.items()}
            for index, entry in found["state"].items()
        },
        "param_groups": [
            {**group, "params": [order[index] for index in group["params"]]} for group in found["param_groups"]
        ],
    }


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Give an optimizer the state that `optimizer_state` made, each process its share."""
    parameters = dict(model.named_parameters())
    order = [name for group in state["param_groups"] for name in group["params"]]
    numbers = {name: number for number, name in enumerate(order)}

    def shared(value: Any, parameter: Tensor) -> Any:
        moment = isinstance(value, Tensor) and value.shape == parameter.shape and value.ndim > 0
        return like(value, parameter) if moment else value

    optimizer.load_state_dict(
        {
            "state": {
                numbers[name]: {key: shared(value, parameters[name]) for key, value in entry.items()}
                for name, entry in state["state"].items()
            },
            "param_groups": [
                {**group, "params": [numbers[name] for name in group["params"]]} for group in state["param_groups"]
            ],
        }
    )
