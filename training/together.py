"""Several processes that train one model: torchrun --nproc-per-node 2 SCRIPT ... gives each core of the machine one."""

import os

import torch
import torch.distributed as dist


def join():
    if "RANK" in os.environ:
        dist.init_process_group("gloo")


def rank():
    """The number of this process; 0 where there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def agree(x):
    """A number as process 0 has it, so that all take the same steps."""
    if dist.is_initialized():
        box = torch.tensor([x], dtype=torch.float64)
        dist.broadcast(box, 0)
        x = float(box)
    return x


def mean_gradients(params):
    if not dist.is_initialized():
        return
    grads = [p.grad for p in params if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in grads])
    dist.all_reduce(flat)
    for g, part in zip(grads, (flat / dist.get_world_size()).split([g.numel() for g in grads]), strict=True):
        g.copy_(part.view_as(g))


def descend(opt, loss, params, longest):
    """One step on the mean gradient of all processes, cut to the length `longest`; returns its length before that."""
    opt.zero_grad()
    loss.backward()
    mean_gradients(params)
    norm = torch.nn.utils.clip_grad_norm_(params, longest)
    opt.step()
    return norm
