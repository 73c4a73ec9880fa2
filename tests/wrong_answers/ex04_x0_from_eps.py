"""ex04_x0_from_eps. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""

per_picture = lambda x: x.reshape(-1, 1, 1, 1)


def back(a_of=lambda alpha_bar, t: per_picture(alpha_bar[t]), formula=None):
    return lambda x_t, eps, t, alpha_bar: formula(x_t, eps, a_of(alpha_bar, t))


def divided_in_place(x_t, eps, t, alpha_bar):
    a = per_picture(alpha_bar[t])
    x_t -= (1 - a).sqrt() * eps
    return x_t / a.sqrt()


WRONG = [
    ("not divided", "still multiplied", back(formula=lambda x, e, a: x - (1 - a).sqrt() * e)),
    ("no parentheses", "only x_t was divided", back(formula=lambda x, e, a: x / a.sqrt() - (1 - a).sqrt() * e)),
    ("plus", "added once more", back(formula=lambda x, e, a: (x + (1 - a).sqrt() * e) / a.sqrt())),
    ("no square roots", "square roots are missing", back(formula=lambda x, e, a: (x - (1 - a) * e) / a)),
    ("divided by alpha_bar", "divide by the square root", back(formula=lambda x, e, a: (x - (1 - a).sqrt() * e) / a)),
    ("along the width", "along the width", back(lambda alpha_bar, t: alpha_bar[t], lambda x, e, a: (x - (1 - a).sqrt() * e) / a.sqrt())),
    ("multiplied", "each step undone", back(formula=lambda x, e, a: (x - (1 - a).sqrt() * e) * a.sqrt())),
    ("all noise taken away", "each step undone", back(formula=lambda x, e, a: (x - e) / a.sqrt())),
    ("one t for all", "each step undone",
     back(lambda alpha_bar, t: alpha_bar[t[0]], lambda x, e, a: (x - (1 - a).sqrt() * e) / a.sqrt())),
    ("in place", "changed in place", divided_in_place),
]

RIGHT = [lambda x, e, t, alpha_bar: x / (a := per_picture(alpha_bar[t])).sqrt() - (1 / a - 1).sqrt() * e]
