"""From noise to pictures and back: DDPM, DDIM, Euler, DDIM inversion, classifier-free guidance.

    papers              code           meaning
    ------------------  -------------  ---------------------------------------------------------------------
    epsilon_theta       predict        predict(x_t, t) -> what the network predicts: eps, v or x_0, see Schedule
    x_t, x_{t-1}        x_t, t_prev    a sampler may jump: t_prev is where the step ends, negative after the last
    eta, sigma_t        eta, sigma     how much fresh noise a DDIM step adds; 0 makes it deterministic
    phi                 phi            how much of the guidance is rescaled

Ho et al. 2020, arXiv:2006.11239 (DDPM). Song et al. 2021, arXiv:2010.02502 (DDIM); their alpha is alpha_bar here.
Karras et al. 2022, arXiv:2206.00364 (Euler); their x is x_t / sqrt(alpha_bar), their sigma(t) is not DDIM's sigma_t but
sqrt((1 - alpha_bar) / alpha_bar). Here x_t is Ho's whatever the sampler, and so are what `predict` and `callback` get.

The numbers are those of diffusers' schedulers, step by step, also where these do more, or less, than the papers: see
`steps_of`, `ddpm_step` and `noise_share`. PNDM is not here; checkpoints that name it are sampled with DDIM.

A step is a pure function: noise comes in as a tensor. `sample` draws it, one generator per picture, so that a picture
depends on its own seed and not on its neighbours in the batch.
"""
import torch

from .schedule import CHOICES


def guide(e_uncond, e_cond, scale):
    """Classifier-free guidance. Ho & Salimans 2022, arXiv:2207.12598, Eq. (6), with scale = 1 + w."""
    return e_uncond + scale * (e_cond - e_uncond)


def rescale_guidance(guided, cond, phi):
    """Guided predictions with the contrast of the conditional ones. A large scale overexposes, most with zero-SNR betas.

    Args:
        guided, cond: what `guide` returned and was given, (B, ...).
        phi: 0 changes nothing, 1 gives each picture's prediction the standard deviation of `cond`; the paper takes 0.7.

    Source: Lin et al. 2024, arXiv:2305.08891, Sec. 3.4.
    """
    axes = tuple(range(1, guided.ndim))
    rescaled = guided * (cond.std(axes, keepdim=True) / guided.std(axes, keepdim=True))     # Eq. (15)
    return phi * rescaled + (1 - phi) * guided                                              # Eq. (16)


def ddim_step(schedule, prediction, x_t, t, t_prev, eta=0.0, noise=None, recompute_eps=False):
    """One DDIM step, x_t -> x_{t_prev}.

    Args:
        schedule: Schedule.
        prediction: the network's output at (x_t, t), (B, C, H, W); channels past C (a learned variance) are not used.
        x_t: (B, C, H, W).
        t, t_prev: int or int64 (B,); t_prev < 0 is the picture itself.
        eta: 0 is deterministic, 1 has the variance of DDPM.
        noise: (B, C, H, W) standard normal, needed when eta > 0.
        recompute_eps: where x_0 was clipped, change eps so that the two agree with x_t again.

    Returns:
        (B, C, H, W).

    Source: Song et al. Eq. (12) and (16).
    """
    prediction = prediction[:, :x_t.shape[1]]
    a_t, a_prev = schedule.alpha_bar_at(t, x_t), schedule.alpha_bar_at(t_prev, x_t)
    x_0 = schedule.clip_x0(schedule.to_x0(prediction, x_t, t))
    eps = schedule.eps_given_x0(x_0, x_t, t) if recompute_eps else schedule.to_eps(prediction, x_t, t)

    sigma = eta * ((1 - a_prev) / (1 - a_t) * (1 - a_t / a_prev)).sqrt()                    # Eq. (16)
    direction = (1 - a_prev - sigma ** 2).clamp(min=0).sqrt() * eps
    x_prev = a_prev.sqrt() * x_0 + direction                                                # Eq. (12) without its noise
    return x_prev + sigma * needed(noise, "eta > 0") if eta else x_prev


def ddpm_step(schedule, prediction, x_t, t, t_prev, noise=None, unclip=False):
    """One ancestral step, x_t -> x_{t_prev}: a draw from the posterior q(x_{t_prev} | x_t, x_0) at the predicted x_0.

    Args as in `ddim_step`. A network with variance_type "learned_range" gives 2C channels, prediction and variance.
    At t = 0 the mean is returned, without noise. A sampler whose last t is larger ends with noise, as in the peers; it is
    nothing unless variance_type is "fixed_large" or "learned_range". `unclip` rounds like UnCLIP's scheduler.

    Source: Ho et al. Eq. (6) and (7), with beta_t = 1 - alpha_bar_t / alpha_bar_{t_prev} for a jump of any length.
    """
    prediction, log_var_share = prediction[:, :x_t.shape[1]], prediction[:, x_t.shape[1]:]
    a_t, a_prev = schedule.alpha_bar_at(t, x_t), schedule.alpha_bar_at(t_prev, x_t, end=1.0)
    alpha, beta = a_t / a_prev, 1 - a_t / a_prev
    if unclip:
        beta = unclip_beta(schedule, beta, t, t_prev)
        alpha = 1 - beta
    x_0 = schedule.clip_x0(schedule.to_x0(prediction, x_t, t))

    mean = (a_prev.sqrt() * beta * x_0 + alpha.sqrt() * (1 - a_prev) * x_t) / (1 - a_t)     # Eq. (7), left
    variance = ((1 - a_prev) / (1 - a_t) * beta).clamp(min=1e-20)                           # Eq. (7), right
    if schedule.variance_type == "fixed_large":
        variance = beta                                                                     # Sec. 3.2, the other choice
    if schedule.variance_type == "learned_range":                                           # Nichol & Dhariwal Eq. (15)
        share = (log_var_share + 1) / 2
        variance = torch.exp(share * beta.log() + (1 - share) * variance.log())
    is_last = torch.as_tensor(t) == 0
    if is_last.all():
        return mean
    noise_std = torch.where(is_last.to(x_t.device).reshape(-1, *[1] * (x_t.ndim - 1)), 0, variance.sqrt())
    return mean + noise_std * needed(noise, "a DDPM step")                                  # Eq. (6)


def unclip_beta(schedule, beta, t, t_prev):
    """beta_t as UnCLIP's scheduler has it: of the table, for a step to t - 1.

    The same but for rounding, and yet another by 1e-3 at t = 0: 1 - alpha_bar has only three digits there in float32.
    """
    t = torch.as_tensor(t, device=beta.device)
    return torch.where(t - t_prev == 1, schedule.betas.to(beta.device)[t], beta.flatten()).reshape(beta.shape)


def euler_step(schedule, prediction, x_t, t, t_prev):
    """One Euler step along the probability flow ODE, x_t -> x_{t_prev}: straight on, as far as sigma falls.

        x_{t_prev} / sqrt(alpha_bar_{t_prev}) = x_t / sqrt(alpha_bar_t) + (sigma_prev - sigma) eps

    That is a DDIM step with eta 0 (Song et al. Eq. (13)), and is written as one here: nothing is divided by alpha_bar, which
    may be 0. In contrast to `ddim_step`, the last step always ends at the picture itself, and x_0 is never clipped.

    Args and returns as in `ddim_step`; t, t_prev may be float.

    Source: Karras et al. Alg. 1 without its correction, line 4 and 5.
    """
    t = torch.as_tensor(t, dtype=torch.float32)             # float: sigma is then finite also with zero-SNR betas
    x = x_t.double()                                        # between two timesteps near 0, 1 - alpha_bar needs the digits
    prediction = prediction[:, :x.shape[1]]
    a_prev = schedule.alpha_bar_at(t_prev, x, end=1.0)
    x_0, eps = schedule.to_x0(prediction, x, t), schedule.to_eps(prediction, x, t)
    x_prev = a_prev.sqrt() * x_0 + (1 - a_prev).sqrt() * eps
    return x_prev.to(torch.promote_types(x_t.dtype, torch.float32))


def needed(noise, what):
    if noise is None:
        raise ValueError(f"{what} needs noise: pass noise= to the step, or generator= to sample()")
    return noise


def noise(shape, seeds, device=None):
    """Standard normal noise, (B, ...) float32: picture i of seed s is picture 0 of seed s + i.

    Drawn on the CPU, one generator per picture: the same on every device and at every batch size.

    Args:
        shape: (B, ...).
        seeds: the first seed, or a list with one seed or torch.Generator per picture. A generator goes on where it
            was; a single generator draws the whole batch.
    """
    if isinstance(seeds, torch.Generator):
        return torch.randn(shape, generator=seeds, device=seeds.device).to(device)
    seeds = generators(seeds, shape[0])
    return torch.stack([torch.randn(shape[1:], generator=g, device=g.device) for g in seeds]).to(device)


def generators(seeds, n):
    """One torch.Generator per picture, from the first seed, or from a list of n seeds or generators."""
    seeds = range(seeds, seeds + n) if isinstance(seeds, int) else seeds
    if len(seeds) != n:
        raise ValueError(f"{len(seeds)} seeds for {n} pictures")
    if any(isinstance(s, int) and not 0 <= s < 2 ** 64 for s in seeds):
        raise ValueError(f"seeds {seeds}, expected whole numbers from 0 to 2 ** 64 - 1")
    return [s if isinstance(s, torch.Generator) else torch.Generator().manual_seed(s) for s in seeds]


def steps_of(schedule, steps, method=None):
    """The (t, t_prev) of each step of a sampler, first to last; t_prev is -1 after the last. Euler's t may be float.

    DDPM and Euler step to the next t. DDIM steps by T // steps in the peers, and so here. With "leading" spacing that is
    the next t; with "trailing" if T is a multiple of `steps`; with "linspace" it is not, and a little noise stays behind.
    """
    method = method or schedule.method
    t = schedule.timesteps(steps, rounded=method != "euler" or schedule.timestep_spacing != "linspace").tolist()
    if method == "ddim":
        return [(now, max(now - schedule.T // steps, -1)) for now in t]
    return list(zip(t, t[1:] + [-1]))


def noise_share(schedule, steps, x, method):
    """What `sample` multiplies x_T with. Euler starts from the noise in x_T alone, unless the spacing is "leading"."""
    if method != "euler" or schedule.timestep_spacing == "leading":
        return 1.0
    return (1 - schedule.alpha_bar_at(steps_of(schedule, steps, method)[0][0], x)).sqrt()


@torch.no_grad()
def sample(predict, schedule, x, steps, method=None, eta=0.0, generator=None, start=0, stop=None, callback=None):
    """Run a sampler, from noise to a picture or over a part of the way. Without gradients.

    Args:
        predict: predict(x_t, t) -> prediction; t is an int, or with "linspace" spacing and Euler a float.
        x: where to start: noise x_T (B, C, H, W), or, with `start`, the x_t of that step.
        steps: number of steps of the whole way.
        method: "ddim", "ddpm", "unclip" (see `ddpm_step`) or "euler"; None for the model's own, `schedule.method`.
        eta: for "ddim", see `ddim_step`.
        generator: for eta > 0, "ddpm" and "unclip": see `seeds` of `noise`.
        start, stop: run steps[start:stop] only. `stop` k gives the x_t that step k would start from.
        callback: callback(i, t, x) after each step i, with the latents it made; what it returns, if anything,
            replaces them.

    Returns:
        (B, C, H, W).
    """
    method = method or schedule.method
    if method not in CHOICES["method"]:
        raise ValueError(f"method {method!r}, expected one of {', '.join(CHOICES['method'])}")
    if eta and method != "ddim":
        raise ValueError(f"eta {eta} with method {method}; eta is for ddim")
    if generator is not None and not isinstance(generator, torch.Generator):
        generator = generators(generator, len(x))       # made once, so that each step continues the stream
    x = x if start else noise_share(schedule, steps, x, method) * x
    for i, (t, t_prev) in list(enumerate(steps_of(schedule, steps, method)))[start:stop]:
        prediction = predict(x, t)
        is_random = eta > 0 if method == "ddim" else method in ("ddpm", "unclip") and t > 0
        z = noise(x.shape, generator, x.device) if is_random and generator is not None else None
        if method == "ddim":
            x = ddim_step(schedule, prediction, x, t, t_prev, eta, z)
        elif method == "euler":
            x = euler_step(schedule, prediction, x, t, t_prev)
        else:
            x = ddpm_step(schedule, prediction, x, t, t_prev, z, unclip=method == "unclip")
        if callback is not None:
            changed = callback(i, t, x)
            x = x if changed is None else changed
    return x


@torch.no_grad()
def ddim_invert(predict, schedule, x_0, steps, iterations=1, start=0, callback=None, method=None):
    """The noise from which `sample` makes x_0: DDIM run backwards. Without gradients.

    A step back from x_{t_prev} to x_t needs the prediction at x_t, which is not known yet. One iteration takes
    x_{t_prev} for it (Song et al. Sec. 4.3); each further iteration asks again at the x_t found (a fixed point:
    Pan et al. 2023, arXiv:2309.04907). With guidance inversion drifts; invert with the conditional prediction alone.

    Args:
        predict: as for `sample`, and the same.
        x_0: (B, C, H, W) latents of the picture.
        steps, start: as for `sample`; the result is where it starts.
        iterations: 1 costs as much as sampling; 3 to 5 bring the picture back almost exactly.
        callback: callback(i, t, x) after each step, i falling from steps - 1 to `start`.
        method: "ddim" or "euler", which is to bring the picture back; None for the model's own, "ddim" if that is random.
    """
    method = method or ("euler" if schedule.method == "euler" else "ddim")
    end = 1.0 if method == "euler" else None
    x = x_0
    for i, (t, t_prev) in reversed(list(enumerate(steps_of(schedule, steps, method)))[start:]):
        x_prev = x
        a_t, a_prev = schedule.alpha_bar_at(t, x), schedule.alpha_bar_at(t_prev, x, end)
        for _ in range(iterations):
            eps = schedule.to_eps(predict(x, t)[:, :x.shape[1]], x, t)
            x_0 = (x_prev - (1 - a_prev).sqrt() * eps) / a_prev.sqrt()
            x = a_t.sqrt() * x_0 + (1 - a_t).sqrt() * eps                   # Song et al. Eq. (12), sigma 0, backwards
        if callback is not None:
            callback(i, t, x)
    return x if start else x / noise_share(schedule, steps, x, method)
