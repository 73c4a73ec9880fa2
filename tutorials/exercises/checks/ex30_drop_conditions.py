import torch

from .tools import call, numbers, same


def check_drop_conditions(drop_conditions):
    u, rates = numbers(.05, .15, .25, .95), numbers(.5, .5, .7, .2)             # B = n: a wrong axis raises no error
    u_each = numbers(.1, .9, .6, .3).expand(4, 4).clone()
    u_each[2], u_each[3] = numbers(.4, .6, .6, .3), numbers(.9, .45, .75, .1)
    alone, none, everything = u_each >= rates, u[:, None] < .1, (u[:, None] >= .1) & (u[:, None] < .2)
    want = torch.tensor([[0] * 4, [1] * 4, [0, 1, 0, 1], [1, 0, 1, 0]]).bool()
    got = call(drop_conditions, u, u_each, rates)
    rule = lambda alone=alone, none=none, everything=everything: (alone | everything) & ~none
    same(got, want, "picture 0 must lose all, picture 1 keep all, and each of the others what its own u_each says", {
        "True must mean kept; here it means lost": ~want,
        "all and none are swapped: u < 0.1 loses all": rule(none=everything, everything=none),
        "a condition is lost where u_each is below its rate; here it is kept there": rule(alone=~alone),
        "no picture loses all": rule(none=none & False), "no picture keeps all": rule(everything=none & False),
        "only u_each counts here: some pictures must lose all, and some keep all": alone,
        "all below 0.2 are lost; from 0.1 to 0.2 all are kept": rule(none=u[:, None] < .2),
        "the rates belong to the conditions, not to the pictures": rule(alone=u_each >= rates[:, None]),
        "all pictures got what belongs to the first one: each draws its own": want[:1].expand(4, 4),
        "u was lined up with the conditions; it belongs to the pictures: (B, 1)": (alone | (u < .2)) & (u >= .1)} | {
        "all conditions have the rate 0.5 here; intensity is dropped more often": rule(alone=u_each >= .5)})
