"""Exercise 25: a slider from pictures. About 15 minutes, difficulty 3 of 5.     pytest tutorials/exercises -k ex25

For what has no word, such as the size of eyes, two pictures say it: A before and B after. Each end of the slider learns its own picture
(Gandikota et al. 2024, arXiv:2311.12092, Sec. 4.2): with the scale at -1 the model predicts the noise in A, at +1 the noise in B.

    loss = mean ( predict(x_t^A, t, -1) - eps )^2  +  mean ( predict(x_t^B, t, +1) - eps )^2

Both pictures get the same t and the same noise eps, so that they differ only in what the slider is to learn;
x_t = sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t) eps.
"""
import torch


def visual_slider_loss(predict, x_A, x_B, t, eps, alpha_bar):
    """predict(x_t (B, C, h, w), t (B,), scale float) -> (B, C, h, w); x_A, x_B, eps (B, C, h, w); (B,) int64; (T,) -> scalar tensor"""
    raise NotImplementedError("ex25: write visual_slider_loss() in tutorials/exercises/ex25_visual_slider_loss.py: noise both "
                              "pictures alike, predict at both ends, and add the two mean squared errors")
