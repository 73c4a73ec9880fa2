import torch

from .tools import call, randn, same


def check_two_set_guidance(two_set_guidance):
    x_t, t, w = randn(2, 3, 4, 4, seed=1), torch.tensor([5, 900]), 3.0
    c_1 = {"sketch": randn(2, 3, 4, 4, seed=2), "depth": randn(2, 3, 4, 4, seed=3)}
    c_2 = {"sketch": c_1["sketch"], "caption": randn(2, 3, 4, 4, seed=4)}

    def predict(x, times, c):
        assert isinstance(c, dict), "predict takes a dict of conditions as third argument"
        assert torch.equal(x, x_t) and torch.equal(times, t), "predict must get x_t and t as they are"
        return (x + sum((i + 1) * c[k] for i, k in enumerate(("sketch", "depth", "caption")) if k in c)).sin()
    e_1, e_2, e_0, e_12 = (predict(x_t, t, c) for c in (c_1, c_2, {}, c_1 | c_2))
    same(call(two_set_guidance, predict, x_t, t, c_1, c_2, 1.0), e_2, "w = 1 must be the prediction under c_2 alone", {
        "the two sets are swapped: w belongs to c_2": e_1,
        "1 - w is needed here, not 1 + w: that counts c_1 once too often": e_2 + 2 * e_1,
        "the two sets were joined; each has its own prediction": e_12})
    same(call(two_set_guidance, predict, x_t, t, c_1, c_2, w), w * e_2 + (1 - w) * e_1, "w predict(c_2) + (1 - w) predict(c_1)", {
        "this is guidance from no condition at all; it goes from c_1 to c_2": w * e_2 + (1 - w) * e_0,
        "c_2 counts, but c_1 is not suppressed": e_2, "c_1 is missing": w * e_2, "w is c_2's weight, not 1 + w": (1 + w) * e_2 - w * e_1,
        "the weights must sum to 1: w and 1 - w": w * e_2 - w * e_1 + e_2,
        "what both sets have must act as it is: predict each set whole, then mix": w * e_12 + (1 - w) * e_1})
