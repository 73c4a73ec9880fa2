"""ex32_two_set_guidance. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""

def joined_in_place(predict, x, t, c_1, c_2, w):
    c_1.update(c_2)
    return predict(x, t, c_1)


WRONG = [
    ("swapped", "swapped", lambda predict, x, t, c_1, c_2, w: w * predict(x, t, c_1) + (1 - w) * predict(x, t, c_2)),
    ("1 + w", "not 1 + w", lambda predict, x, t, c_1, c_2, w: w * predict(x, t, c_2) + (1 + w) * predict(x, t, c_1)),
    ("joined", "were joined", lambda predict, x, t, c_1, c_2, w: predict(x, t, c_1 | c_2)),
    ("from nothing", "no condition at all", lambda predict, x, t, c_1, c_2, w: w * predict(x, t, c_2) + (1 - w) * predict(x, t, {})),
    ("c_2 alone", "not suppressed", lambda predict, x, t, c_1, c_2, w: predict(x, t, c_2)),
    ("c_1 missing", "c_1 is missing", lambda predict, x, t, c_1, c_2, w: w * predict(x, t, c_2)),
    ("Ho and Salimans' w", "c_2 alone", lambda predict, x, t, c_1, c_2, w: (1 + w) * predict(x, t, c_2) - w * predict(x, t, c_1)),
    ("joined in place", "changed in place", joined_in_place),
    ("t forgotten", "x_t and t as they are",
     lambda predict, x, t, c_1, c_2, w: w * predict(x, 0 * t, c_2) + (1 - w) * predict(x, 0 * t, c_1)),
    ("a mean", "c_2 alone", lambda predict, x, t, c_1, c_2, w: w * (predict(x, t, c_2) + predict(x, t, c_1)) / 2),
    ("names, not dicts", "dict of conditions",
     lambda predict, x, t, c_1, c_2, w: w * predict(x, t, list(c_2)) + (1 - w) * predict(x, t, list(c_1))),
    ("all in the second", "were joined", lambda predict, x, t, c_1, c_2, w: w * predict(x, t, c_1 | c_2) + (1 - w) * predict(x, t, c_1)),
    ("weights that stop at 1", "not suppressed",
     lambda predict, x, t, c_1, c_2, w: min(w, 1) * predict(x, t, c_2) + (1 - min(w, 1)) * predict(x, t, c_1)),
]

RIGHT = []
