"""Exercise 33: a concept and a little of what is around it. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex33"""


def context_loss(e, eps, M, alpha):
    """(B, C, h, w), (B, C, h, w), (B, 1, h, w) in 0 .. 1, float -> (B,)"""
    weight = (alpha + (1 - alpha) * M).square()
    return (weight * (e - eps).square()).sum((1, 2, 3)) / (e.shape[1] * weight.sum((1, 2, 3)))
