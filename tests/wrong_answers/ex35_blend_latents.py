"""ex35_blend_latents. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch

root, rest, rooted_rest = torch.sqrt, lambda a: 1 - a, lambda a: (1 - a).sqrt()


def blended(outside=lambda z, eps, a, t: a.sqrt() * z + (1 - a).sqrt() * eps if t >= 0 else z, inside=lambda x, eps, a: x,
            mask=lambda M: M, rest=lambda M: 1 - M, at=lambda alpha_bar, t: alpha_bar[t]):
    def blend(x_t, z, M, t, alpha_bar, eps):
        return mask(M) * inside(x_t, eps, at(alpha_bar, t)) + rest(M) * outside(z, eps, at(alpha_bar, t), t)
    return blend


WRONG = [
    ("swapped", "swapped", blended(mask=lambda M: 1 - M, rest=lambda M: M)),
    ("clean outside", "as noisy as x_t", blended(lambda z, eps, a, t: z)),
    ("as printed", "as it is printed", blended(lambda z, eps, a, t: z + (1 - a).sqrt() * eps if t >= 0 else z)),
    ("no roots", "square roots are missing", blended(lambda z, eps, a, t: a * z + (1 - a) * eps if t >= 0 else z)),
    ("the next level", "next step, t - 1", blended(at=lambda alpha_bar, t: alpha_bar[max(t - 1, 0)])),
    ("noised once more", "noised once more", blended(inside=lambda x, eps, a: a.sqrt() * x + (1 - a).sqrt() * eps)),
    ("hard mask", "made hard", blended(mask=lambda M: (M > .5).to(M), rest=lambda M: (M <= .5).to(M))),
    ("added in full", "added in full", blended(rest=lambda M: 1)),
    ("the table's last entry", "alpha_bar[-1]", blended(lambda z, eps, a, t: a.sqrt() * z + (1 - a).sqrt() * eps)),
    ("the first level at the end", "z exactly",
     blended(lambda z, eps, a, t: a.sqrt() * z + (1 - a).sqrt() * eps, at=lambda alpha_bar, t: alpha_bar[max(t, 0)])),
    ("in place", "changed in place", lambda x_t, z, M, t, alpha_bar, eps: blended()(x_t, z, M, t, alpha_bar, eps) if t < 0 else
        blended()(x_t.mul_(M), z, M, t, alpha_bar, eps)),
    ("its own noise", "noise level of t",
     blended(lambda z, eps, a, t: a.sqrt() * z + (1 - a).sqrt() * torch.randn_like(z) if t >= 0 else z)),
]

RIGHT = [
    lambda x, z, M, t, alpha_bar, eps: torch.lerp(z if t < 0 else alpha_bar[t] ** .5 * z + (1 - alpha_bar[t]) ** .5 * eps, x, M),
]
