"""ex24_lora_merge. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch


def merge_lora(factor=lambda A, alpha, scale: scale * alpha / len(A), update=lambda A, B: B @ A, use=lambda adapters: adapters,
               average=False, start=lambda W: W.float(), round_each=False, end=lambda total, W: total.to(W.dtype), grad=False):
    def merge(W, adapters):
        with torch.set_grad_enabled(grad):
            total, share = start(W), 1 / len(adapters) if average else 1
            for A, B, alpha, scale in use(adapters):
                total = total + share * factor(A, alpha, scale) * update(A, B)
                total = total.to(W.dtype).float() if round_each else total
            return end(total, W)
    return merge


def merge_in_place(W, adapters):
    total = W.float().detach()                          # W itself, where W is float32
    for A, B, alpha, scale in adapters:
        total += (scale * alpha / len(A) * B @ A).detach()
    return total.to(W.dtype)


WRONG = [
    ("no rank", "divided by the rank", merge_lora(lambda A, alpha, scale: scale * alpha)),
    ("the wrong rank", "r is len(a)", merge_lora(lambda A, alpha, scale: scale * alpha / A.shape[1])),
    ("no alpha", "alpha / r is missing", merge_lora(lambda A, alpha, scale: scale)),
    ("no scales", "scales are not used", merge_lora(lambda A, alpha, scale: alpha / len(A))),
    ("averaged", "averaged", merge_lora(average=True)),
    ("the first one", "only the first", merge_lora(use=lambda adapters: adapters[:1])),
    ("the last one", "only the last", merge_lora(use=lambda adapters: adapters[-1:])),
    ("transposed", "transposed", merge_lora(update=lambda A, B: A.T @ B.T)),
    ("without W", "w itself is missing", merge_lora(start=lambda W: 0)),
    ("rounded one by one", "rounded away one by one", merge_lora(round_each=True)),
    ("float32 comes back", "bfloat16", merge_lora(end=lambda total, W: total)),
    ("with a gradient", "carries a gradient", merge_lora(grad=True)),
    ("in place", "changed in place", merge_in_place),
    ("A B for B A", "do shapes and types fit", merge_lora(update=lambda A, B: A @ B)),
]

RIGHT = [
    lambda W, adapters: (W.double() + sum(s * a / len(A) * (B.double() @ A.detach().double()) for A, B, a, s in adapters)).to(W.dtype),
]
