"""Exercise 10: one step of DDIM. About 20 minutes, difficulty 3 of 5.     pytest tutorials/exercises -k ex10"""


def ddim_step(x_t, eps, a, s, eta, z):
    """(B, C, H, W), (B, C, H, W), floats a < s <= 1, float in 0 .. 1, (B, C, H, W) standard normal -> (B, C, H, W)"""
    x_0 = (x_t - (1 - a) ** .5 * eps) / a ** .5
    sigma = eta * ((1 - s) / (1 - a) * (1 - a / s)) ** .5
    return s ** .5 * x_0 + (1 - s - sigma ** 2) ** .5 * eps + sigma * z
