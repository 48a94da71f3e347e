"""FSDP: parameters, gradients and optimizer moments sharded over the processes.

DDP keeps all of them on every device, which is faster where they fit. Here each process keeps its shard; the backbone
and the rest of the network are gathered as they run. For validation, export and checkpoints the network is gathered.

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


def shard(model: SegmentationModel, mesh: DeviceMesh) -> SegmentationModel:
    """Shard a network over the processes of Fabric's mesh, each backbone and the rest as one unit each."""
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # channels last cannot be sharded
    for module in (*model.whole_backbones(), model):
        fully_shard(module, mesh=mesh["data_parallel"])
    register_fsdp_forward_method(model, "training_outputs")
    return model


def is_sharded(model: nn.Module) -> bool:
    """Check whether a network is sharded."""
    return isinstance(model, FSDPModule)


def gather_state(model: nn.Module) -> dict[str, Tensor]:
    """Gather the state of a network; if it is sharded, all processes have to call this."""
    return {name: gather(value) for name, value in model.state_dict().items()}


def gather(tensor: Tensor) -> Tensor:
    """Gather a tensor; if it is sharded, all processes have to call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def shard_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Bring a full tensor to the device and the sharding of a parameter, in the wider of the two types."""
    tensor = tensor.to(parameter.device, torch.promote_types(tensor.dtype, parameter.dtype))
    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor, parameter.device_mesh, parameter.placements)
    return tensor


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Gather the state of an optimizer by parameter name; if it is sharded, all processes have to call this.

    `torch.distributed.checkpoint.state_dict` is not used: it makes a step to create missing state.
    """
    names = {id(value): name for name, value in model.named_parameters()}
    order = [names[id(value)] for group in optimizer.param_groups for value in group["params"]]
    state = optimizer.state_dict()
    return {
        "state": {
            order[index]: {key: gather(value) if isinstance(value, Tensor) else value for key, value in entry.items()}
            for index, entry in state["state"].items()
        },
        "param_groups": [
            {**group, "params": [order[index] for index in group["params"]]} for group in state["param_groups"]
        ],
    }


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore the state that `optimizer_state` gathered, sharded as the parameters are.

    Raises: `ValueError`, or others, for the state of other parameters.
    """
    parameters = dict(model.named_parameters())
    order = [name for group in state["param_groups"] for name in group["params"]]
    indices = {name: index for index, name in enumerate(order)}

    def sharded(value: Any, parameter: Tensor) -> Any:
        if not isinstance(value, Tensor) or not value.ndim:
            return value
        if value.shape != parameter.shape:
            raise ValueError(f"a moment of shape {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}")
        return shard_like(value, parameter)

    optimizer.load_state_dict(
        {
            "state": {
                indices[name]: {key: sharded(value, parameters[name]) for key, value in entry.items()}
                for name, entry in state["state"].items()
            },
            "param_groups": [
                {**group, "params": [indices[name] for name in group["params"]]} for group in state["param_groups"]
            ],
        }
    )
