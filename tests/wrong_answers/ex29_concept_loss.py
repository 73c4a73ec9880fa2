"""ex29_concept_loss. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch

f64 = torch.float64


def concept(low=lambda n, a, b: n.clamp(min=a), high=lambda p, a, b: p.clamp(max=b), negative=lambda n: (n.mean() + n.max()) / 2,
            positive=lambda p: 1 - p.mean(), total=lambda n, p, lam: n + lam * p, empty=0.0):
    def loss(s_pos, s_neg, tau_min, tau_max, lam):
        n, p = low(s_neg, tau_min, tau_max), high(s_pos, tau_min, tau_max)
        return total(negative(n) if len(n) or empty is None else empty, positive(p), lam)
    return loss


WRONG = [
    ("nothing clamped", "nothing is clamped", concept(low=lambda n, a, b: n, high=lambda p, a, b: p)),
    ("negatives not clamped", "negatives are not clamped", concept(low=lambda n, a, b: n)),
    ("positives not clamped", "positives are not clamped", concept(high=lambda p, a, b: p)),
    ("floors and ceilings", "other way round", concept(low=lambda n, a, b: n.clamp(max=a), high=lambda p, a, b: p.clamp(min=b))),
    ("a ceiling for negatives", "not a ceiling", concept(low=lambda n, a, b: n.clamp(max=a))),
    ("taus swapped", "are swapped", concept(low=lambda n, a, b: n.clamp(min=b), high=lambda p, a, b: p.clamp(max=a))),
    ("no maximum", "maximum is missing", concept(negative=lambda n: n.mean())),
    ("no mean", "mean over all members", concept(negative=lambda n: n.max())),
    ("not halved", "take half", concept(negative=lambda n: n.mean() + n.max())),
    ("a minimum", "not the smallest", concept(negative=lambda n: (n.mean() + n.min()) / 2)),
    ("lam on the negatives", "lam weighs the positives", concept(total=lambda n, p, lam: lam * n + p)),
    ("no lam", "lam is not used", concept(total=lambda n, p, lam: n + p)),
    ("positives pushed away", "must get larger", concept(positive=lambda p: p.mean())),
    ("negatives attracted", "must get smaller", concept(total=lambda n, p, lam: lam * p - n)),
    ("positives summed", "positives are summed", concept(positive=lambda p: 1 - p.sum())),
    ("mean clamped, not entries", "half of mean and maximum",
     concept(low=lambda n, a, b: n, negative=lambda n: (n.mean().clamp(min=.2) + n.max().clamp(min=.2)) / 2)),
    ("detached", "gradient", concept(low=lambda n, a, b: n.clamp(min=a).detach())),
    ("positives rebuilt", "gradient", concept(high=lambda p, a, b: torch.tensor([min(x, b) for x in p.tolist()], dtype=f64))),
    ("NaN without negatives", "mean of nothing", concept(negative=lambda n: (n.mean() + (n.max() if len(n) else 0)) / 2, empty=None)),
    ("max of nothing", "do shapes and types fit", concept(empty=None)),
]

RIGHT = [
    lambda p, n, low, high, lam: (torch.maximum(n, torch.full_like(n, low)).mean() / 2 + n.max().clamp(min=low) / 2 if n.numel() else 0)
        + lam * (1 - torch.minimum(p, torch.full_like(p, high))).mean(),
]
