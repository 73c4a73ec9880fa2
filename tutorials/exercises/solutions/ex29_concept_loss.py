"""Exercise 29: like a pet, unlike every pet. About 15 minutes, difficulty 3 of 5.     pytest tutorials/exercises -k ex29"""


def concept_loss(s_pos, s_neg, tau_min, tau_max, lam):
    """(P,), (N,) where N may be 0, float, float, float -> scalar tensor"""
    n, p = s_neg.clamp(min=tau_min), s_pos.clamp(max=tau_max)
    negative = (n.mean() + n.max()) / 2 if len(n) else 0.0
    return negative + lam * (1 - p.mean())
