import torch

from .tools import call, numbers, randn, same


def check_blend_latents(blend_latents):
    alpha_bar = numbers(.95, .8, .5, .1)
    x, z, eps = (randn(3, 2, 4, 3, seed=s) for s in (1, 2, 3))
    M = torch.zeros(3, 1, 4, 3, dtype=torch.float64)
    M[0, :, 1:3], M[1, :, :, 0], M[2] = 1, 1, .3
    at = lambda a, x: a ** .5 * x + (1 - a) ** .5 * eps
    blend = lambda inside, outside, M=M: M * inside + (1 - M) * outside
    a, z_t = .5, at(.5, z)
    same(call(blend_latents, x, z, M, 2, alpha_bar, eps), blend(x, z_t), "x_t inside the mask, and outside z at the noise level of t", {
        "inside and outside are swapped: M is 1 where the picture may change": blend(z_t, x),
        "outside is the clean picture; it must be as noisy as x_t": blend(x, z),
        "the given picture must be multiplied by sqrt(alpha_bar): Eq. (6) as it is printed leaves that out":
            blend(x, z + (1 - a) ** .5 * eps),
        "the square roots are missing": blend(x, a * z + (1 - a) * eps),
        "the noise level is that of the next step, t - 1": blend(x, at(.8, z)),
        "x_t was noised once more: it has its noise already": blend(at(a, x), z_t),
        "the mask was made hard: in between, both count": blend(x, z_t, (M > .5).double()),
        "outside must be 1 - M of the picture; here it is added in full": M * x + z_t})
    same(call(blend_latents, x, z, M, -1, alpha_bar, eps), blend(x, z),
         "after the last step, t = -1, the outside must be z exactly: alpha_bar[-1] is the last entry of the table, nearly pure noise")
