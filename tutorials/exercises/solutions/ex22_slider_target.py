"""Exercise 22: what a Concept Slider learns. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex22"""


def slider_target(e_t, e_pos, e_neg, eta):
    """(B, C, h, w), (P, B, C, h, w), (P, B, C, h, w), float -> (B, C, h, w), without gradient"""
    return (e_t + eta * (e_pos - e_neg).sum(dim=0)).detach()
