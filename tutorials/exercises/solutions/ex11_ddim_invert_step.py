"""Exercise 11: one step back to the noise. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex11"""


def ddim_invert_step(x_s, eps, s, a):
    """(B, C, H, W), (B, C, H, W), floats 0 < a < s <= 1 -> (B, C, H, W)"""
    x_0 = (x_s - (1 - s) ** .5 * eps) / s ** .5
    return a ** .5 * x_0 + (1 - a) ** .5 * eps
