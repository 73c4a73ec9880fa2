"""Where tensors live and in which precision products are made: the one place that decides."""
import os
from contextlib import nullcontext

import torch


def pick(device=None):
    """The device asked for, else this process's GPU, else the CPU. ValueError if there is no such device."""
    try:
        device = torch.device(device or (f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is not one that torch knows, such as cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device} was asked for, but torch sees no GPU; use cpu")
    return device


def multiplies_bfloat16(device):
    """Whether bfloat16 products are a speed-up there: on GPUs, and on CPUs with AMX tiles. Elsewhere they are emulated."""
    return device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_amx_tile_supported())


def autocast(device):
    """For training: products and convolutions in bfloat16 where that is fast. Weights, norms and losses stay float32."""
    return torch.autocast(device.type, torch.bfloat16) if multiplies_bfloat16(device) else nullcontext()
