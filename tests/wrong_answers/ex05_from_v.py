"""ex05_from_v. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""

per_picture = lambda x: x.reshape(-1, 1, 1, 1)
unrotated = lambda x_0, eps, at=lambda alpha_bar, t: per_picture(alpha_bar[t]): lambda x, v, t, alpha_bar: (
    x_0(x, v, at(alpha_bar, t).sqrt(), (1 - at(alpha_bar, t)).sqrt()), eps(x, v, at(alpha_bar, t).sqrt(), (1 - at(alpha_bar, t)).sqrt()))
x0_of_v, eps_of_v = lambda x, v, c, s: c * x - s * v, lambda x, v, c, s: c * v + s * x

WRONG = [
    ("wrong order", "wrong order", unrotated(eps_of_v, x0_of_v)),
    ("sign of x_0", "sign is wrong in x_0", unrotated(lambda x, v, c, s: c * x + s * v, eps_of_v)),
    ("sign of eps", "sign is wrong in eps", unrotated(x0_of_v, lambda x, v, c, s: c * v - s * x)),
    ("no roots", "square roots are missing",
     unrotated(lambda x, v, c, s: c ** 2 * x - s ** 2 * v, lambda x, v, c, s: c ** 2 * v + s ** 2 * x)),
    ("roots swapped", "swapped in x_0", unrotated(lambda x, v, c, s: s * x - c * v, lambda x, v, c, s: s * v + c * x)),
    ("roots swapped in eps", "swapped in eps", unrotated(x0_of_v, lambda x, v, c, s: s * v + c * x)),
    ("v taken for noise", "takes v for noise", unrotated(lambda x, v, c, s: (x - s * v) / c, lambda x, v, c, s: v)),
    ("eps still multiplied", "still multiplied", unrotated(x0_of_v, lambda x, v, c, s: x - c * (c * x - s * v))),
    ("along the width", "along the width", unrotated(x0_of_v, eps_of_v, lambda alpha_bar, t: alpha_bar[t])),
    ("x_0 alone", "two tensors", lambda x, v, t, alpha_bar: unrotated(x0_of_v, eps_of_v)(x, v, t, alpha_bar)[0]),
]

RIGHT = []
