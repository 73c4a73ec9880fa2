import math

from .tools import call, numbers, same


def schedule(T, s, power=2, first=1, half=2, end=1.0, divide=True):
    f = lambda t: math.cos((t / T + s) / (end + s) * math.pi / half) ** power
    return numbers(*(f(t) / (f(0) if divide else 1) for t in range(first, first + T)))


def check_cosine_alpha_bar(cosine_alpha_bar):
    for T, s in ((6, .1), (5, .3)):
        same(call(cosine_alpha_bar, T, s), schedule(T, s), "entry t - 1 must be f(t) / f(0). Is the angle from about 0 to pi / 2?", {
            "the cosine must be squared: it is the root of alpha_bar": schedule(T, s, power=1),
            "f(t) must be divided by f(0), which is less than 1": schedule(T, s, divide=False),
            "this starts with t = 0; the first entry is for t = 1": schedule(T, s, first=0),
            "pi / 2, not pi: all of the picture is gone at a right angle": schedule(T, s, half=1),
            "t / T + s must be divided by 1 + s, so that it ends at 1": schedule(T, s, end=1 - s)})
    same(call(cosine_alpha_bar, 4), schedule(4, .008), "without a second argument s must be 0.008")
