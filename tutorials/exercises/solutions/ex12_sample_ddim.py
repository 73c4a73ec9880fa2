"""Exercise 12: the whole sampler. About 25 minutes, difficulty 4 of 5.     pytest tutorials/exercises -k ex12"""
import torch


@torch.no_grad()
def sample_ddim(predict, x_T, alpha_bar, steps):
    """predict(x (B, C, H, W), t int) -> eps (B, C, H, W); x_T (B, C, H, W); (T,); int up to T -> (B, C, H, W)"""
    d = len(alpha_bar) // steps
    times, x = [k * d for k in reversed(range(steps))], x_T
    for t, t_next in zip(times, times[1:] + [None]):
        a, a_next = alpha_bar[t], alpha_bar[t_next] if t_next is not None else torch.ones_like(alpha_bar[0])
        eps = predict(x, t)
        x_0 = (x - (1 - a).sqrt() * eps) / a.sqrt()
        x = a_next.sqrt() * x_0 + (1 - a_next).sqrt() * eps
    return x
