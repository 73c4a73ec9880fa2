"""ex07_min_snr_weight. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch

snr_of = lambda a: a / (1 - a)

WRONG = [
    ("upside down", "upside down", lambda a, gamma: (1 / snr_of(a)).clamp(max=gamma) * snr_of(a)),
    ("max for min", "larger of snr and gamma", lambda a, gamma: snr_of(a).clamp(min=gamma) / snr_of(a)),
    ("not divided", "predicts x_0", lambda a, gamma: snr_of(a).clamp(max=gamma)),
    ("no min", "has no min", lambda a, gamma: gamma / snr_of(a)),
    ("for v", "predicts v", lambda a, gamma: snr_of(a).clamp(max=gamma) / (snr_of(a) + 1)),
    ("alpha_bar for SNR", "not the signal-to-noise", lambda a, gamma: a.clamp(max=gamma) / a),
    ("a root", "square root", lambda a, gamma: snr_of(a).sqrt().clamp(max=gamma) / snr_of(a).sqrt()),
    ("gamma always 5", "gamma is an argument", lambda a, gamma: snr_of(a).clamp(max=5.0) / snr_of(a)),
    ("in place", "changed in place", lambda a, gamma: snr_of(a).clamp(max=gamma) / a.div_(1 - a)),
    ("clamped to 1", "gamma / snr above", lambda a, gamma: snr_of(a).clamp(max=1.0) / snr_of(a)),
]

RIGHT = [lambda a, gamma: torch.minimum(torch.ones_like(a), gamma * (1 - a) / a)]
