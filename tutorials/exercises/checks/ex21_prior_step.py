import torch

from .tools import call, numbers, randn, same


def check_prior_step(prior_step):
    alpha_bar = numbers(.99, .9, .7, .5, .2, .05)
    z_t, f_u, f_c, noise = randn(3, 4, seed=1), randn(3, 4, seed=2), randn(3, 4, seed=3), randn(3, 4, seed=4)
    none, scale, limit = torch.zeros_like(z_t), 4.0, 1.0
    guided = f_u + scale * (f_c - f_u)
    z = guided.clamp(-limit, limit)
    same(call(prior_step, z_t, f_u, f_c, scale, 0, -1, alpha_bar, limit, noise), z,
         "the last step, u = -1, must end at the guided and clamped prediction: s is 1 there; alpha_bar[-1] is the table's last entry", {
             "the prediction must be clamped to -limit .. limit": guided,
             "the two predictions were clamped before guidance, which then overshoots: guide first":
                 f_u.clamp(-limit, limit) + scale * (f_c.clamp(-limit, limit) - f_u.clamp(-limit, limit)),
             "f_uncond and f_cond are swapped": (f_c + scale * (f_u - f_c)).clamp(-limit, limit),
             "there is no guidance: scale is not used": f_c.clamp(-limit, limit)})
    t, u = 4, 2
    a, s = .2, .7
    beta = 1 - a / s
    step = lambda *inputs: call(prior_step, inputs[0], inputs[1], inputs[1], scale, t, u, alpha_bar, limit, inputs[2])
    same(step(none, none, noise), ((1 - s) / (1 - a) * beta) ** .5 * noise,
         "the noise must be multiplied with sqrt((1 - s) / (1 - a) beta)", {
        "the square root is missing: noise is multiplied with a standard deviation": (1 - s) / (1 - a) * beta * noise,
        "this is sqrt(beta) times noise: the variance is that of the posterior": beta ** .5 * noise,
        "s was read at t - 1: the step goes from t to u": ((1 - .5) / (1 - a) * (1 - a / .5)) ** .5 * noise,
        "the noise is not used": none})
    same(step(none, f_c.clamp(-1, 1), none), s ** .5 * beta / (1 - a) * f_c.clamp(-1, 1),
         "the weight of the prediction must be sqrt(s) beta / (1 - a): it is a clean embedding, not noise", {
             "the square root of s is missing in the weight of the prediction": s * beta / (1 - a) * f_c.clamp(-1, 1),
             "the weights of z and z_t are swapped": (1 - beta) ** .5 * (1 - s) / (1 - a) * f_c.clamp(-1, 1)})
    same(step(z_t, none, none), (1 - beta) ** .5 * (1 - s) / (1 - a) * z_t, "the weight of z_t must be sqrt(1 - beta) (1 - s) / (1 - a)")
