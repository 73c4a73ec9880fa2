"""ex31_palette. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch
import torch.nn.functional as F


def histogram(nearest=lambda lab, colors: torch.cdist(lab, colors).argmin(-1), share=lambda one_hot: one_hot.mean(1),
              kernel=lambda d, sigma: torch.exp(-d ** 2 / (2 * sigma ** 2)), normalise=lambda k: k / k.sum(0),
              spread=lambda share, k: share @ k.T):
    def of(lab, colors, sigma):
        one_hot = F.one_hot(nearest(lab, colors), len(colors)).to(lab.dtype)
        return spread(share(one_hot), normalise(kernel(torch.cdist(colors, colors), sigma)))
    return of


places = lambda d: (torch.arange(len(d), dtype=d.dtype)[:, None] - torch.arange(len(d), dtype=d.dtype)).abs()

WRONG = [
    ("not spread", "not spread", histogram(spread=lambda share, k: share)),
    ("counts", "divide by how many", histogram(share=lambda one_hot: one_hot.sum(1))),
    ("rows normalised", "rows of the kernel", histogram(normalise=lambda k: k / k.sum(1, keepdim=True))),
    ("not normalised", "not normalised", histogram(normalise=lambda k: k)),
    ("distance not squared", "distance must be squared", histogram(kernel=lambda d, sigma: torch.exp(-d / (2 * sigma ** 2)))),
    ("no 2", "the 2 is missing", histogram(kernel=lambda d, sigma: torch.exp(-d ** 2 / sigma ** 2))),
    ("sigma not squared", "sigma must be squared", histogram(kernel=lambda d, sigma: torch.exp(-d ** 2 / (2 * sigma)))),
    ("places in the list", "places in the list", histogram(kernel=lambda d, sigma: torch.exp(-places(d) ** 2 / (2 * sigma ** 2)))),
    ("largest product", "largest product", histogram(nearest=lambda lab, colors: (lab @ colors.T).argmax(-1))),
    ("mean colour", "averaged before", histogram(nearest=lambda lab, colors: torch.cdist(lab.mean(1, keepdim=True), colors).argmin(-1))),
    ("one for the batch", "whole batch", histogram(share=lambda one_hot: one_hot.mean((0, 1), keepdim=True)[0].expand(len(one_hot), -1))),
    ("farthest colour", "nearest colours", histogram(nearest=lambda lab, colors: torch.cdist(lab, colors).argmax(-1))),
    ("float32", "float64", lambda lab, colors, sigma: histogram()(lab, colors, sigma).float()),
    ("summed over the colours", "shape", histogram(share=lambda one_hot: one_hot.mean(2))),
    ("pixels softly assigned", "nearest colours",
     lambda lab, colors, sigma: (-torch.cdist(lab, colors) ** 2 / (2 * sigma ** 2)).softmax(-1).mean(1)),
]


def palette_by_counting(lab, colors, sigma):
    d = (colors[:, None] - colors).square().sum(-1)
    kernel = (-d / (2 * sigma ** 2)).softmax(0)
    near = (lab[:, :, None] - colors).square().sum(-1).argmin(-1)
    return torch.stack([kernel @ (torch.bincount(n, minlength=len(colors)) / n.numel()).to(lab) for n in near])


RIGHT = [palette_by_counting]
