"""ex21_prior_step. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch

f64 = torch.float64


def jump(z=lambda u, c, k, limit: (u + k * (c - u)).clamp(-limit, limit),
         before=lambda alpha_bar, t, u: alpha_bar[u] if u >= 0 else torch.ones((), dtype=f64),
         weights=lambda a, s, beta: (s.sqrt() * beta / (1 - a), (1 - beta).sqrt() * (1 - s) / (1 - a)),
         noise=lambda a, s, beta: ((1 - s) / (1 - a) * beta).sqrt()):
    def step(z_t, f_uncond, f_cond, scale, t, u, alpha_bar, limit, fresh):
        a, s = alpha_bar[t], before(alpha_bar, t, u)
        beta = 1 - a / s
        k_0, k_t = weights(a, s, beta)
        return k_0 * z(f_uncond, f_cond, scale, limit) + k_t * z_t + noise(a, s, beta) * fresh
    return step


def as_if_noise(z_t, f_uncond, f_cond, scale, t, u, alpha_bar, limit, fresh):
    a, eps = alpha_bar[t], f_uncond + scale * (f_cond - f_uncond)
    x_0 = lambda *_: ((z_t - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-limit, limit)
    return jump(z=x_0)(z_t, f_uncond, f_cond, scale, t, u, alpha_bar, limit, fresh)


WRONG = [
    ("not clamped", "must be clamped", jump(lambda u, c, k, limit: u + k * (c - u))),
    ("clamped too early", "guide first",
     jump(lambda u, c, k, limit: (u.clamp(-limit, limit) + k * (c.clamp(-limit, limit) - u.clamp(-limit, limit))))),
    ("swapped", "swapped", jump(lambda u, c, k, limit: (c + k * (u - c)).clamp(-limit, limit))),
    ("no guidance", "scale is not used", jump(lambda u, c, k, limit: c.clamp(-limit, limit))),
    ("clamped from above only", "guided and clamped", jump(lambda u, c, k, limit: (u + k * (c - u)).clamp(max=limit))),
    ("the table's last entry", "alpha_bar[-1]", jump(before=lambda alpha_bar, t, u: alpha_bar[u])),
    ("t - 1 for u", "read at t - 1", jump(before=lambda alpha_bar, t, u: alpha_bar[t - 1] if t else torch.ones((), dtype=f64))),
    ("variance for deviation", "square root is missing", jump(noise=lambda a, s, beta: (1 - s) / (1 - a) * beta)),
    ("the other variance", "sqrt(beta) times noise", jump(noise=lambda a, s, beta: beta.sqrt() * (s < 1))),
    ("no noise", "noise is not used", jump(noise=lambda a, s, beta: 0)),
    ("root of s missing", "square root of s",
     jump(weights=lambda a, s, beta: (s * beta / (1 - a), (1 - beta).sqrt() * (1 - s) / (1 - a)))),
    ("root of 1 - beta missing", "weight of z_t",
     jump(weights=lambda a, s, beta: (s.sqrt() * beta / (1 - a), (1 - beta) * (1 - s) / (1 - a)))),
    ("taken for noise", "guided and clamped", as_if_noise),
    ("in place", "changed in place", jump(lambda u, c, k, limit: c.sub_(u).mul_(k).add_(u).clamp(-limit, limit))),
]

RIGHT = []
