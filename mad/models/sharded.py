"""Weights and optimiser states split over workers (FSDP2), and gathered whole for a checkpoint."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(network: nn.Module, device: str) -> None:
    """Split the weights of a network over all workers of the process group, block by block.

    Args:
        network: a Hugging Face model, of the same shape on every worker. Only rank 0 needs to hold its weights: those
            of the others may be on the meta device, and no other worker ever holds more than a block whole. Blocks
            are the longest list of modules in it.
        device: type of the workers' devices. Weights elsewhere are moved there, a block at a time.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if any(parameter.is_meta for parameter in network.parameters()):
        network.tie_weights()  # type: ignore[operator]  # moved to the meta device, tied weights come apart
    mesh = init_device_mesh(device.split(":")[0], (dist.get_world_size(),))
    lists = [module for module in network.modules() if isinstance(module, nn.ModuleList)]
    for part in (*max(lists, key=len, default=()), network):
        _receive(part, device)
        fully_shard(part, mesh=mesh)


def _receive(part: nn.Module, device: str) -> None:
    """Take from rank 0 the weights and buffers of a part of the network that are not split yet."""
    for tensor in (*part.parameters(), *part.buffers()):
        if isinstance(tensor, DTensor):
            continue
        if tensor.is_meta:
            here = torch.empty_like(tensor, device=device)
            weights = isinstance(tensor, nn.Parameter)
            # In place, so that tied weights stay tied.
            torch.utils.swap_tensors(tensor, nn.Parameter(here, tensor.requires_grad) if weights else here)
        else:
            tensor.data = tensor.data.to(device)
        dist.broadcast(tensor.data, src=0)


def whole(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors on the CPU with the shares of all workers joined; every worker must call it."""
    return {name: _joined(tensor) for name, tensor in tensors.items() if isinstance(tensor, Tensor)}


def whole_state(module: nn.Module) -> dict[str, Tensor]:
    """State of a module as from :func:`whole`; of tied weights the first name only, as transformers saves them."""
    seen: set[int] = set()
    aliases = set()
    for name, parameter in module.named_parameters(remove_duplicate=False):
        aliases |= {name} if id(parameter) in seen else set()
        seen.add(id(parameter))
    return whole({name: tensor for name, tensor in module.state_dict().items() if name not in aliases})


def _joined(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()


def like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor, split as a parameter of the same shape is; as it is, where that is not split."""
    if isinstance(parameter, DTensor) and tensor.shape == parameter.shape:
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
    return tensor
