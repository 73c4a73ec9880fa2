"""Exercise 3: to noise pictures. About 10 minutes, difficulty 1 of 5.     pytest tutorials/exercises -k ex03"""


def q_sample(x_0, eps, t, alpha_bar):
    """(B, C, H, W), (B, C, H, W), (B,) int64 in 0 .. T-1, (T,) -> (B, C, H, W)"""
    a = alpha_bar[t].reshape(-1, 1, 1, 1).to(x_0.dtype)
    return a.sqrt() * x_0 + (1 - a).sqrt() * eps
