"""Exercise 32: guidance between two sets of conditions. About 5 minutes, difficulty 1 of 5.     pytest tutorials/exercises -k ex32"""


def two_set_guidance(predict, x_t, t, c_1, c_2, w):
    """predict(x_t (B, C, h, w), t (B,), dict) -> (B, C, h, w); x_t; t; dict; dict; float -> (B, C, h, w)"""
    return w * predict(x_t, t, c_2) + (1 - w) * predict(x_t, t, c_1)
