"""Exercise 17: several prompts, and negative ones. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex17"""


def compose_guidance(e_uncond, e_conds, weights):
    """(B, C, H, W), (n, B, C, H, W), (n,) -> (B, C, H, W)"""
    return e_uncond + (weights.reshape(-1, 1, 1, 1, 1) * (e_conds - e_uncond)).sum(dim=0)
