"""Exercise 25: a slider from pictures. About 15 minutes, difficulty 3 of 5.     pytest tutorials/exercises -k ex25"""
import torch.nn.functional as F


def visual_slider_loss(predict, x_A, x_B, t, eps, alpha_bar):
    """predict(x_t (B, C, h, w), t (B,), scale float) -> (B, C, h, w); x_A, x_B, eps (B, C, h, w); (B,) int64; (T,) -> scalar tensor"""
    a = alpha_bar[t].reshape(-1, 1, 1, 1)
    noised = lambda x: a.sqrt() * x + (1 - a).sqrt() * eps
    return F.mse_loss(predict(noised(x_A), t, -1.0), eps) + F.mse_loss(predict(noised(x_B), t, 1.0), eps)
