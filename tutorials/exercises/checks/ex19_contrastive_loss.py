import math

import torch.nn.functional as F

from .tools import call, gradient, numbers, randn, same


def check_contrastive_loss(contrastive_loss):
    image, text, log_scale = randn(4, 3, seed=1), randn(4, 3, seed=2), numbers(.7).squeeze().requires_grad_()
    unit = lambda x: x / x.norm(dim=1, keepdim=True)
    cos = unit(image) @ unit(text).T
    by_hand = lambda logits: sum(-math.log(math.exp(logits[i, i]) / sum(math.exp(x) for x in logits[i])) for i in range(4)) / 4
    as_loss = lambda logits: numbers((by_hand(logits) + by_hand(logits.T)) / 2).squeeze()
    s = math.exp(.7)
    rows, columns, both = numbers(by_hand(s * cos)).squeeze(), numbers(by_hand(s * cos.T)).squeeze(), as_loss(s * cos)
    got = call(contrastive_loss, image, text, log_scale)
    same(got, both, "the loss must be the mean of both cross entropies, of rows and of columns of exp(log_scale) cos", {
        "embeddings must have length 1: the cosine is the product of unit vectors": as_loss(s * image @ text.T),
        "only pictures look for their texts; texts must look for their pictures, too: columns": rows,
        "only texts look for their pictures; pictures must look for their texts, too: rows": columns,
        "the two cross entropies are added; the loss is their mean": rows + columns,
        "log_scale is a logarithm: multiply with its exponential": as_loss(.7 * cos),
        "multiply by the scale, a temperature would divide": as_loss(cos / s),
        "normalised over the batch; each embedding must have length 1: dim=1":
            as_loss(s * F.normalize(image, dim=0) @ F.normalize(text, dim=0).T),
        "cross_entropy takes logits; these had a softmax already": as_loss((s * cos).softmax(1))})
    g = gradient(got, log_scale, "no gradient: the loss was detached")
    assert g != 0, "no gradient reaches log_scale, which is learned too"
