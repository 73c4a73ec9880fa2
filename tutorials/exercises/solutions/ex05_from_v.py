"""Exercise 5: what a velocity means. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex05"""


def from_v(x_t, v, t, alpha_bar):
    """(B, C, H, W), (B, C, H, W), (B,) int64 in 0 .. T-1, (T,) -> (x_0, eps), (B, C, H, W) each"""
    a = alpha_bar[t].reshape(-1, 1, 1, 1)
    return a.sqrt() * x_t - (1 - a).sqrt() * v, a.sqrt() * v + (1 - a).sqrt() * x_t
