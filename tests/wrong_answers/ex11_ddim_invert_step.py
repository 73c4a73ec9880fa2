"""ex11_ddim_invert_step. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""

WRONG = [
    ("swapped", "swapped", lambda x, e, s, a: s ** .5 * (x - (1 - a) ** .5 * e) / a ** .5 + (1 - s) ** .5 * e),
    ("as new noise", "as if it were new noise", lambda x, e, s, a: (a / s) ** .5 * x + (1 - a / s) ** .5 * e),
    ("x_s for x_0", "clean picture", lambda x, e, s, a: a ** .5 * x + (1 - a) ** .5 * e),
    ("x_0 not divided", "not divided", lambda x, e, s, a: a ** .5 * (x - (1 - s) ** .5 * e) + (1 - a) ** .5 * e),
    ("noise subtracted", "subtracted in the second step",
     lambda x, e, s, a: a ** .5 * (x - (1 - s) ** .5 * e) / s ** .5 - (1 - a) ** .5 * e),
    ("no roots", "square roots are missing", lambda x, e, s, a: a * (x - (1 - s) * e) / s + (1 - a) * e),
    ("only noise grows", "only the noise grows", lambda x, e, s, a: x + ((1 - a) ** .5 - (1 - s) ** .5) * e),
    ("noise added in the first step", "same x_0 and eps",
     lambda x, e, s, a: a ** .5 * (x + (1 - s) ** .5 * e) / s ** .5 + (1 - a) ** .5 * e),
    ("in place", "changed in place", lambda x, e, s, a: a ** .5 * (x.sub_((1 - s) ** .5 * e)) / s ** .5 + (1 - a) ** .5 * e),
    ("noise asked for twice", "from a clean picture", lambda x, e, s, a: a ** .5 * (x - (1 - s) ** .5 * e) / s ** .5
     + (1 - a) ** .5 * (x - (x - (1 - s) ** .5 * e)) / (1 - s) ** .5),
    ("x_0 alone", "same x_0 and eps", lambda x, e, s, a: (x - (1 - s) ** .5 * e) / s ** .5),
]

RIGHT = [lambda x, e, s, a: (a / s) ** .5 * x + ((1 - a) ** .5 - (a * (1 - s) / s) ** .5) * e]
