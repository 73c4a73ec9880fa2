"""Exercise 23: a low-rank change of a layer. About 10 minutes, difficulty 2 of 5.     pytest tutorials/exercises -k ex23"""


def lora_forward(x, W, A, B, alpha, scale):
    """(N, d_in), (d_out, d_in), (r, d_in), (d_out, r), float, float -> (N, d_out)"""
    return x @ W.T + scale * alpha / len(A) * (x @ A.T @ B.T)
