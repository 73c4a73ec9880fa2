"""Where tensors live and in which precision products are made: the one place that decides."""
import os
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode


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
    """Whether bfloat16 products are a speed-up there: on GPUs, and on CPUs with AMX or AVX512-BF16. Elsewhere they are emulated."""
    has_units = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return device.type == "cuda" or (device.type == "cpu" and has_units)


def autocast(device):
    """For training: products and convolutions in bfloat16 where that is fast. Weights, norms and losses stay float32."""
    return torch.autocast(device.type, torch.bfloat16) if multiplies_bfloat16(device) else nullcontext()


def products(x):
    """A context for models in half precision: where a CPU would emulate it, products are made in float32, which is several
    times as fast. The weights stay as they are; one layer at a time is converted, and its result is rounded again."""
    is_half = x.dtype in (torch.bfloat16, torch.float16)
    is_native = x.device.type != "cpu" or (x.dtype == torch.bfloat16 and multiplies_bfloat16(x.device))
    return Float32Products() if is_half and not is_native else nullcontext()


class Float32Products(TorchFunctionMode):
    """Every call of one of these functions gets its tensors as float32, and gives back the type of the first one."""
    FUNCTIONS = {F.linear, F.conv2d, F.scaled_dot_product_attention, torch.addmm}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function not in self.FUNCTIONS:
            return function(*args, **(kwargs or {}))
        wide = [a.float() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
        return function(*wide, **(kwargs or {})).to(args[0].dtype)
