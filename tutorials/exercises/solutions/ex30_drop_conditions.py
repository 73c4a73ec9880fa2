"""Exercise 30: which conditions a picture is told. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex30"""


def drop_conditions(u, u_each, rates):
    """(B,), (B, n), (n,) -> (B, n) bool, True where the condition is kept"""
    u = u[:, None]
    return ((u_each >= rates) | (u < .2)) & (u >= .1)
