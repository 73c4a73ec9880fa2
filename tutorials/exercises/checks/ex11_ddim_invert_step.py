from .tools import call, randn, same


def check_ddim_invert_step(ddim_invert_step):
    x_0, eps = randn(2, 3, 4, 4, seed=1), randn(2, 3, 4, 4, seed=2)
    s, a = .8, .3
    x_s, x_t = s ** .5 * x_0 + (1 - s) ** .5 * eps, a ** .5 * x_0 + (1 - a) ** .5 * eps
    same(call(ddim_invert_step, x_s, eps, s, a), x_t, "the result must be the same x_0 and eps, mixed as at the noisier level a", {
        "s and a are swapped: x_s is at the level s": s ** .5 * ((x_s - (1 - a) ** .5 * eps) / a ** .5) + (1 - s) ** .5 * eps,
        "this adds eps as if it were new noise, q(x_t | x_s); but x_s has its share of eps already":
            (a / s) ** .5 * x_s + (1 - a / s) ** .5 * eps,
        "x_s was taken for the clean picture: take its noise away first": a ** .5 * x_s + (1 - a) ** .5 * eps,
        "x_0 is not divided by sqrt(s)": a ** .5 * s ** .5 * x_0 + (1 - a) ** .5 * eps,
        "the noise was subtracted in the second step, too: the way back adds it": a ** .5 * x_0 - (1 - a) ** .5 * eps,
        "the square roots are missing": a * ((x_s - (1 - s) * eps) / s) + (1 - a) * eps,
        "only the noise grows here; the picture must shrink from sqrt(s) to sqrt(a)": x_s + ((1 - a) ** .5 - (1 - s) ** .5) * eps})
    same(call(ddim_invert_step, x_0, eps, 1.0, a), x_t, "from a clean picture, s = 1, the step must be q_sample with this eps")
