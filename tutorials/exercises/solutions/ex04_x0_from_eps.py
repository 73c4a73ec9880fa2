"""Exercise 4: the picture that a noise prediction means. About 5 minutes, difficulty 1 of 5.     pytest tutorials/exercises -k ex04"""


def x0_from_eps(x_t, eps, t, alpha_bar):
    """(B, C, H, W), (B, C, H, W), (B,) int64 in 0 .. T-1, (T,) -> (B, C, H, W)"""
    a = alpha_bar[t].reshape(-1, 1, 1, 1)
    return (x_t - (1 - a).sqrt() * eps) / a.sqrt()
