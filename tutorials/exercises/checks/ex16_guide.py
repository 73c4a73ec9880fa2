from .tools import call, randn, same


def check_guide(guide):
    e_uncond, e_cond = randn(2, 2, 3, 4, 4)
    same(call(guide, e_uncond, e_cond, 0.0), e_uncond, "scale 0 must ignore the prompt", {
        "the two predictions are swapped: scale 0 must ignore the prompt": e_cond,
        "at scale 0 nothing is left: the prediction without the prompt is where it starts": 0 * e_cond})
    same(call(guide, e_uncond, e_cond, 1.0), e_cond, "scale 1 must be the prediction with the prompt. Is s = 1 + w?")
    same(call(guide, e_uncond, e_cond, 3.0), 3 * e_cond - 2 * e_uncond, "scale 3 must go past e_cond, three times as far", {
        "it stops at e_cond; guidance goes further": e_cond})
    same(call(guide, e_uncond, e_cond, 1.5), 1.5 * e_cond - .5 * e_uncond, "scale is a float: 1.5 must go one and a half times as far")
