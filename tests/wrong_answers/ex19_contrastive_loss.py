"""ex19_contrastive_loss. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch
import torch.nn.functional as F

unit = lambda x: F.normalize(x, dim=1)
truth = lambda logits: torch.arange(len(logits))
both = lambda logits: (F.cross_entropy(logits, truth(logits)) + F.cross_entropy(logits.T, truth(logits))) / 2
cosines = lambda i, t: unit(i) @ unit(t).T

WRONG = [
    ("no unit vectors", "must have length 1", lambda i, t, s: both(s.exp() * i @ t.T)),
    ("rows only", "texts must look", lambda i, t, s: F.cross_entropy(s.exp() * cosines(i, t), truth(i))),
    ("columns only", "pictures must look", lambda i, t, s: F.cross_entropy(s.exp() * cosines(t, i), truth(i))),
    ("a sum of both", "is their mean", lambda i, t, s: 2 * both(s.exp() * cosines(i, t))),
    ("no exponential", "is a logarithm", lambda i, t, s: both(s * cosines(i, t))),
    ("divided by the scale", "a temperature would divide", lambda i, t, s: both(cosines(i, t) / s.exp())),
    ("normalised over the batch", "normalised over the batch",
     lambda i, t, s: both(s.exp() * F.normalize(i, dim=0) @ F.normalize(t, dim=0).T)),
    ("softmax twice", "takes logits", lambda i, t, s: both((s.exp() * cosines(i, t)).softmax(1))),
    ("all right answers are 0", "mean of both cross entropies", lambda i, t, s: F.cross_entropy(s.exp() * cosines(i, t), 0 * truth(i))),
    ("scale detached", "reaches log_scale", lambda i, t, s: both(s.detach().exp() * cosines(i, t)) + 0 * s),
    ("diagonal only", "mean of both cross entropies", lambda i, t, s: -(s.exp() * cosines(i, t)).diagonal().mean()),
    ("item()", "a float came back", lambda i, t, s: both(s.exp() * cosines(i, t)).item()),
]


def contrastive_by_log_softmax(image, text, log_scale):
    logits = log_scale.exp() * F.cosine_similarity(image[:, None], text[None], dim=-1)
    return -(logits.log_softmax(0).diagonal() + logits.log_softmax(1).diagonal()).mean() / 2


RIGHT = [contrastive_by_log_softmax]
