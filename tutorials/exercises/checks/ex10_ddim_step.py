from .tools import call, randn, same


def check_ddim_step(ddim_step):
    x_0, eps, z = randn(2, 3, 4, 4, seed=1), randn(2, 3, 4, 4, seed=2), randn(2, 3, 4, 4, seed=3)
    a, s = .3, .7
    sigma = lambda eta: eta * ((1 - s) / (1 - a) * (1 - a / s)) ** .5
    step = lambda kept, sigma: s ** .5 * x_0 + (1 - s - kept) ** .5 * eps + sigma * z        # kept: what of 1 - s is not for eps
    x_t = a ** .5 * x_0 + (1 - a) ** .5 * eps
    same(call(ddim_step, x_t, eps, a, s, 0.0, z), step(0, 0), "eta 0: the same x_0 and eps, mixed as at the new alpha_bar s", {
        "with eta 0 there must be no fresh noise: sigma is a multiple of eta": step(sigma(1) ** 2, sigma(1)),
        "the predicted x_0 is not divided by sqrt(a)": s ** .5 * a ** .5 * x_0 + (1 - s) ** .5 * eps,
        "eps is weighed for the old noise level: 1 - s, not 1 - a": s ** .5 * x_0 + (1 - a) ** .5 * eps,
        "x_t was taken in place of x_0: the noise in it must go first": s ** .5 * x_t + (1 - s) ** .5 * eps,
        "the square roots are missing: s and 1 - s are variances": s * x_0 + (1 - s) * eps})
    same(call(ddim_step, x_t, eps, a, 1.0, 0.0, z), x_0, "the last step, to s = 1, must end at x_0")
    eta = .6
    one, variance = sigma(eta), sigma(eta) ** 2
    same(call(ddim_step, x_t, eps, a, s, eta, z), step(variance, one),
         "with eta 0.6, x_s = sqrt(s) x_0 + sqrt(1 - s - sigma^2) eps + sigma z", {
        "fresh noise came on top: the weight of eps must shrink by sigma^2": step(0, one),
        "sigma must be squared under the root": step(one, one), "the fresh noise z is missing": step(variance, 0),
        "a variance was used in place of sigma: square roots in Eq. (16)": step((variance / eta) ** 2, variance / eta),
        "eta multiplies the root; here it is under it": step(variance / eta, one / eta ** .5)})
