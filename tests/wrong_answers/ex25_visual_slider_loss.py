"""ex25_visual_slider_loss. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch.nn.functional as F

per_picture = lambda x: x.reshape(-1, 1, 1, 1)


def noised(signal, noise, at=lambda alpha_bar, t: per_picture(alpha_bar[t])):
    return lambda x_0, eps, t, alpha_bar: (signal(at(alpha_bar, t)) * x_0 + noise(at(alpha_bar, t)) * eps).to(x_0.dtype)


def visual(at_A=-1.0, at_B=1.0, power=.5, a_of=lambda a, t: per_picture(a[t]), error=F.mse_loss, total=lambda A, B: A + B,
           noise=lambda eps: eps, clean=False, target=lambda x, eps: eps, out=lambda e: e, times=lambda t: t):
    def loss(predict, x_A, x_B, t, eps, alpha_bar):
        a, eps_B = a_of(alpha_bar, t), noise(eps)
        noised = lambda x, eps: x if clean else a ** power * x + (1 - a) ** power * eps
        e_A, e_B = predict(noised(x_A, eps), times(t), at_A), predict(noised(x_B, eps_B), times(t), at_B)
        return total(error(out(e_A), target(x_A, eps)), error(out(e_B), target(x_B, eps_B)))
    return loss


def half_frozen(predict, x_A, x_B, t, eps, alpha_bar):
    cut = lambda x_t, t, scale: predict(x_t, t, scale).detach() if scale < 0 else predict(x_t, t, scale)
    return visual()(cut, x_A, x_B, t, eps, alpha_bar)


def half_clean(predict, x_A, x_B, t, eps, alpha_bar):
    return visual()(lambda x_t, t, scale: predict(x_A if scale < 0 else x_t, t, scale), x_A, x_B, t, eps, alpha_bar)


def ends_compared(predict, x_A, x_B, t, eps, alpha_bar):
    kept = []
    visual(total=lambda A, B: A, out=lambda e: kept.append(e) or e)(predict, x_A, x_B, t, eps, alpha_bar)
    return F.mse_loss(*kept)


WRONG = [
    ("ends swapped", "ends are swapped", visual(1.0, -1.0)),
    ("one scale for both", "at scale -1 and at scale +1", visual(1.0, 1.0)),
    ("0 for before", "at scale -1 and at scale +1", visual(0.0, 1.0)),
    ("clean pictures", "clean picture", visual(clean=True)),
    ("no roots", "square roots are missing", visual(power=1)),
    ("along the width", "along the width", visual(a_of=lambda a, t: a[t])),
    ("two noises", "same noise eps as a", visual(noise=lambda eps: eps.flip(0))),
    ("a mean", "they add up", visual(total=lambda A, B: (A + B) / 2)),
    ("only after", "only the end after", visual(total=lambda A, B: B)),
    ("only before", "only the end before", visual(total=lambda A, B: A)),
    ("ends compared", "compared with each other", ends_compared),
    ("pictures as targets", "compared with the pictures", visual(target=lambda x, eps: x)),
    ("a sum of squares", "summed over all numbers", visual(error=lambda x, y: (x - y).square().sum())),
    ("detached", "no gradient reaches the slider", visual(out=lambda e: e.detach())),
    ("the end before without gradient", "both ends", half_frozen),
    ("only after is noised", "clean picture", half_clean),
    ("a difference", "sum of two mean squared errors", visual(total=lambda A, B: B - A)),
    ("t forgotten", "t as second argument", visual(times=lambda t: 0 * t)),
]

RIGHT = []
