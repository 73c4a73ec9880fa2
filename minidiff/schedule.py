"""Noise schedules: how fast a picture turns into noise, and the three things a network may predict about it.

    papers                 code                 meaning                                          shape
    ---------------------  -------------------  -----------------------------------------------  ----------------
    beta_t                 betas[t]             variance of the noise added by step t            (T,)
    alpha_bar_t            alpha_bar[t]         what is left of the picture's variance           (T,)
    x_0, x_t, epsilon      x_0, x_t, eps        picture, noisy picture, noise                    (B, C, H, W)
    v_t                    v                    sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0    (B, C, H, W)
    sigma_t                sigma                sqrt((1 - alpha_bar) / alpha_bar)                see `between`

Ho et al. 2020, arXiv:2006.11239, count t = 1 .. T; the code counts 0 .. T - 1. Song et al. 2021, arXiv:2010.02502, write
alpha for what Ho and this file call alpha_bar. Salimans & Ho 2022, arXiv:2202.00512, write alpha and sigma for
sqrt(alpha_bar) and sqrt(1 - alpha_bar). Karras et al. 2022, arXiv:2206.00364, write x for x_t / sqrt(alpha_bar), and sigma.
"""
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from .checkpoints import CheckpointError, read_config, write_json

# A scheduler_config.json leaves out what equals the default of the class it names, and the classes disagree.
DDIM_DEFAULTS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear", "steps_offset": 0,
                 "set_alpha_to_one": True, "clip_sample": True, "timestep_spacing": "leading"}
PEER_DEFAULTS = {
    "DDIMScheduler": DDIM_DEFAULTS,
    "DDPMScheduler": {**DDIM_DEFAULTS, "method": "ddpm"},
    # PNDM is another solver of the same equation as DDIM, for the same networks. We run DDIM in its place.
    "PNDMScheduler": {**DDIM_DEFAULTS, "set_alpha_to_one": False, "clip_sample": False},
    "EulerDiscreteScheduler": {**DDIM_DEFAULTS, "clip_sample": False, "timestep_spacing": "linspace", "method": "euler"},
    "UnCLIPScheduler": {**DDIM_DEFAULTS, "beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "linspace",
                        "variance_type": "fixed_small_log", "method": "unclip"},
}

# What an EulerDiscreteScheduler may also say, and the only value it may have here.
ONLY = {"interpolation_type": "linear", "timestep_type": "discrete", "final_sigmas_type": "zero",
        "use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}

# How a model is sampled, and the peer that samples so.
METHODS = {"ddim": "DDIMScheduler", "ddpm": "DDPMScheduler", "unclip": "UnCLIPScheduler", "euler": "EulerDiscreteScheduler"}

CHOICES = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "variance_type": ("fixed_small", "fixed_small_log", "fixed_large", "learned_range"),
    "method": tuple(METHODS),
}
RANGES = {"num_train_timesteps": (1, 100_000), "steps_offset": (0, 100_000), "beta_start": (0, 1), "beta_end": (0, 1), "eta": (0, 1),
          "clip_sample_range": (0, math.inf), "sample_max_value": (0, math.inf), "dynamic_thresholding_ratio": (0, 1)}


@dataclass
class Schedule:
    """q(x_t | x_0), and the way from a network's prediction to x_0, eps and v. Field names as in scheduler_config.json.

    The defaults are Stable Diffusion's. Every t is a number or a tensor, scalar or (B,): int64, or float for a time between
    two timesteps.
    """
    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    trained_betas: list | None = None           # the table itself, in place of the three values above
    rescale_betas_zero_snr: bool = False        # x_T becomes pure noise
    prediction_type: str = "epsilon"            # what the network gives: eps, v or x_0 ("sample")
    timestep_spacing: str = "leading"           # see `timesteps`
    steps_offset: int = 1
    set_alpha_to_one: bool = False              # the last step ends at alpha_bar 1, not at alpha_bar[0]
    clip_sample: bool = False                   # see `clip_x0`
    clip_sample_range: float = 1.0
    thresholding: bool = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    variance_type: str = "fixed_small"          # see `samplers.ddpm_step`
    method: str = "ddim"                        # how this model is sampled unless asked otherwise, see `samplers.sample`
    eta: float = 0.0                            # of its DDIM steps, unless asked otherwise; a key of ours, which the peers pass over

    def __post_init__(self):
        check_numbers(self)
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        if self.eta and self.method != "ddim":
            raise ValueError(f"eta {self.eta} with method {self.method}; eta is for ddim")
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ValueError("rescale_betas_zero_snr needs prediction_type v_prediction or sample: "
                             "from pure noise, the noise alone does not give x_0")
        self.betas = make_betas(self)                           # (T,)
        self.alpha_bar = (1 - self.betas).cumprod(0)            # (T,)
        self.T = len(self.betas)

    @classmethod
    def from_config(cls, config):
        """A schedule from the dict in a scheduler_config.json, by default of a DDIMScheduler.

        Keys that concern neither q(x_t | x_0) nor the samplers here are ignored. What is not here raises ValueError.
        """
        peer = config.get("_class_name", "DDIMScheduler")
        if peer not in PEER_DEFAULTS:
            raise ValueError(f"_class_name is {peer!r}, expected one of {', '.join(PEER_DEFAULTS)}. Another solver for the "
                             "same networks (DPM-Solver, LMS, ...) may be renamed to PNDMScheduler; DDIM then replaces it")
        for name, only in ONLY.items() if peer == "EulerDiscreteScheduler" else ():
            if config.get(name) not in (None, only):
                raise ValueError(f"{name} is {config[name]!r}, expected {only!r}; minidiff has only plain Euler steps. With "
                                 "that value the model loads, and samples in other steps than it was published with")
        given = {**PEER_DEFAULTS[peer], **config}
        return cls(**{f.name: given[f.name] for f in fields(cls) if f.name in given})

    @classmethod
    def from_pretrained(cls, folder):
        """Read `folder/scheduler_config.json`."""
        config = read_config(folder, "scheduler_config.json")
        try:
            return cls.from_config(config)
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{Path(folder) / 'scheduler_config.json'}: {error}") from error

    def save_pretrained(self, folder):
        write_json(Path(folder) / "scheduler_config.json", self.config)

    @property
    def config(self):
        """What `from_config` takes, complete, so that the peers read it as this schedule too."""
        values = asdict(self)
        if not self.eta:
            del values["eta"]
        return {"_class_name": METHODS[values.pop("method")], **values}

    def alpha_bar_at(self, t, x, end=None):
        """alpha_bar_t, shaped to multiply x: t (B,) gives (B, 1, 1, 1).

        A negative t is the time after the last step, with alpha_bar `end`; None leaves that to set_alpha_to_one.
        At least float32, whatever x is: half precision cannot hold 1 - alpha_bar near t = 0.
        """
        t = torch.as_tensor(t, device=x.device)
        if end is None:
            end = 1.0 if self.set_alpha_to_one else self.alpha_bar[0].item()
        table = self.alpha_bar.to(x.device)
        alpha_bar = between(table, t) if t.is_floating_point() else table[t.clamp(min=0)]
        alpha_bar = torch.where(t < 0, end, alpha_bar)
        return alpha_bar.to(torch.promote_types(x.dtype, torch.float32)).reshape(-1, *[1] * (x.ndim - 1))

    def add_noise(self, x_0, eps, t):
        """x_t ~ q(x_t | x_0), made with the noise eps."""
        alpha_bar = self.alpha_bar_at(t, x_0)
        return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps            # Ho et al. Eq. (4)

    def to_v(self, x_0, eps, t):
        """The velocity, which a network of prediction_type "v_prediction" learns to predict."""
        alpha_bar = self.alpha_bar_at(t, x_0)
        return alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x_0            # Salimans & Ho, Sec. 4

    def to_x0(self, prediction, x_t, t):
        """What the network's prediction says x_0 is. The inverse of `add_noise` when the prediction is exact."""
        alpha_bar = self.alpha_bar_at(t, x_t)
        if self.prediction_type == "epsilon":
            return (x_t - (1 - alpha_bar).sqrt() * prediction) / alpha_bar.sqrt()       # Ho et al. Eq. (4), for x_0
        if self.prediction_type == "v_prediction":
            return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * prediction         # Salimans & Ho, Sec. 4
        return prediction

    def to_eps(self, prediction, x_t, t):
        """What the network's prediction says the noise is."""
        if self.prediction_type == "epsilon":
            return prediction
        if self.prediction_type == "v_prediction":
            alpha_bar = self.alpha_bar_at(t, x_t)
            return alpha_bar.sqrt() * prediction + (1 - alpha_bar).sqrt() * x_t         # the two equations above, for eps
        return self.eps_given_x0(prediction, x_t, t)

    def eps_given_x0(self, x_0, x_t, t):
        """The noise that leads from x_0 to x_t."""
        alpha_bar = self.alpha_bar_at(t, x_t)
        return (x_t - alpha_bar.sqrt() * x_0) / (1 - alpha_bar).sqrt()                  # Ho et al. Eq. (4), for eps

    def clip_x0(self, x_0):
        """Keep a predicted x_0 in the range of pictures. For pixels; latents have no such range."""
        if self.thresholding:                                                           # Saharia et al. 2022, Sec. 2.3
            size = torch.quantile(x_0.flatten(1).abs(), self.dynamic_thresholding_ratio, dim=1)
            size = size.clamp(1, max(1, self.sample_max_value)).reshape(-1, *[1] * (x_0.ndim - 1))
            return x_0.clamp(-size, size) / size
        if self.clip_sample:
            return x_0.clamp(-self.clip_sample_range, self.clip_sample_range)
        return x_0

    def timesteps(self, steps, rounded=True):
        """The timesteps that a sampler of `steps` steps visits, (steps,) int64, falling. Lin et al. 2024, Table 2.

        With "linspace" spacing they lie between the table's; `rounded` False leaves them there, (steps,) float32.
        """
        if not 1 <= steps <= self.T:
            raise ValueError(f"{steps} sampling steps asked, expected 1 to {self.T}")
        i = torch.arange(steps, dtype=torch.float64)
        if self.timestep_spacing == "trailing":
            stride = self.T - (self.T - self.T / steps)         # T / steps, but for the bits by which the peers break ties
            t = (self.T - i * stride).round() - 1
        elif self.timestep_spacing == "linspace":
            t = i.flip(0) * ((self.T - 1) / max(steps - 1, 1))
        else:
            t = i.flip(0) * (self.T // steps) + self.steps_offset
        if t[0] >= self.T:
            raise ValueError(f"{steps} steps with steps_offset {self.steps_offset} start at t = {int(t[0])}, past the last, "
                             f"{self.T - 1}; take fewer steps")
        return t.round().long() if rounded else t.float()


def check_numbers(s):
    """ValueError unless each value is of the kind of its default, and in its range."""
    for f in fields(s):
        value, kind = getattr(s, f.name), type(f.default)
        is_kind = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)
        if f.default is not None and not is_kind:
            raise ValueError(f"{f.name} is {value!r}, expected a {kind.__name__}")
    for name, (low, high) in RANGES.items():
        if not low <= getattr(s, name) <= high:
            raise ValueError(f"{name} is {getattr(s, name)}, expected {low} to {high}")
    betas = [0] if s.trained_betas is None else s.trained_betas
    if not isinstance(betas, (list, tuple)) or not betas or not all(type(b) in (int, float) and 0 <= b <= 1 for b in betas):
        raise ValueError("trained_betas is not a list of numbers from 0 to 1")


def make_betas(s):
    """beta_t, (T,) float32. The public models were trained and are run with float32 tables."""
    T = s.num_train_timesteps
    if s.trained_betas is not None:
        betas = torch.as_tensor(s.trained_betas, dtype=torch.float32)
    elif s.beta_schedule == "linear":                                                   # Ho et al. Sec. 4
        betas = torch.linspace(s.beta_start, s.beta_end, T)
    elif s.beta_schedule == "scaled_linear":                                            # linear in sqrt(beta)
        betas = torch.linspace(s.beta_start ** 0.5, s.beta_end ** 0.5, T) ** 2
    else:
        betas = cosine_betas(T)
    return zero_terminal_snr(betas) if s.rescale_betas_zero_snr else betas


def cosine_betas(T, offset=0.008, largest=0.999):
    """The cosine schedule. Nichol & Dhariwal 2021, arXiv:2102.09672, Eq. (17)."""
    def f(t):
        return math.cos((t / T + offset) / (1 + offset) * math.pi / 2) ** 2

    return torch.tensor([min(1 - f(t + 1) / f(t), largest) for t in range(T)])


def zero_terminal_snr(betas):
    """Shift and stretch sqrt(alpha_bar): it ends at 0 and starts where it did. Lin et al. 2024, arXiv:2305.08891, Alg. 1."""
    root = (1 - betas).cumprod(0).sqrt()
    alpha_bar = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
    return 1 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


def between(alpha_bar, t):
    """alpha_bar at a time t between two timesteps, t float: sigma is linear from each to the next. For Euler's steps.

    Where zero-SNR betas make it infinite it is 2 ** 12, as in the peers.
    """
    alpha_bar = torch.where(alpha_bar == 0, 2 ** -24, alpha_bar).double()
    sigma = ((1 - alpha_bar) / alpha_bar).sqrt()
    t = t.clamp(0, len(sigma) - 1)
    before, after = t.floor().long(), t.ceil().long()
    sigma = torch.lerp(sigma[before], sigma[after], (t - before).to(sigma.dtype))
    return 1 / (1 + sigma ** 2)
