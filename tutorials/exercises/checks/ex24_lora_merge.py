import torch

from .tools import call, constant, randn, same


def check_lora_merge(lora_merge):
    W = randn(4, 4, seed=1, dtype=torch.float32)                                # d_in = d_out: a wrong order raises no error
    draw = lambda r, seed: (randn(r, 4, seed=seed, dtype=torch.float32).requires_grad_(), randn(4, r, seed=seed + 1, dtype=torch.float32))
    adapters = [(*draw(2, 2), 3.0, .5), (*draw(3, 4), 1.0, -2.0)]
    (A, B, _, _), (A2, B2, _, _) = adapters
    first, second = B @ A, B2 @ A2
    got = call(lora_merge, W, adapters)
    same(got, W + .75 * first - 2 / 3 * second, "W plus scale (alpha / r) B A of every adapter", {
        "alpha must be divided by the rank r of each adapter": W + 1.5 * first - 2 * second,
        "r is len(A), the rank": W + 1.5 / 4 * first - 2 / 4 * second,
        "alpha / r is missing: the scale alone is not enough": W + .5 * first - 2 * second,
        "the scales are not used": W + 1.5 * first + 1 / 3 * second,
        "the updates are averaged; they add up": W + (.75 * first - 2 / 3 * second) / 2,
        "only the first adapter is merged": W + .75 * first,
        "only the last adapter is merged": W - 2 / 3 * second,
        "the update is transposed: B @ A is in the shape of W": W + .75 * first.T - 2 / 3 * second.T,
        "W itself is missing": .75 * first - 2 / 3 * second}, rtol=1e-4, atol=1e-5)
    constant(got, "the merged weight still carries a gradient: merge under torch.no_grad()")
    one, step = torch.ones(1, 1, dtype=torch.bfloat16), 2 ** -7                 # 1 + step is the next number that bfloat16 has
    small = (torch.full((1, 1), step / 4), torch.ones(1, 1), 1.0, 1.0)
    same(call(lora_merge, one, [small] * 8), one + 2 * step,
         "eight updates that are each too small for bfloat16 add up to something that is "
         "not, but they were rounded away one by one: add in float32, round at the end")
