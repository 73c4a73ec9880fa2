"""ex30_drop_conditions. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch


def dropped(alone=lambda u_each, rates: u_each >= rates, none=lambda u: u < .1, everything=lambda u: (u >= .1) & (u < .2),
            shape=lambda u: u[:, None], out=lambda kept: kept):
    return lambda u, u_each, rates: out((alone(u_each, rates) | everything(shape(u))) & ~none(shape(u)))


WRONG = [
    ("True for lost", "means lost", dropped(out=lambda kept: ~kept)),
    ("all and none swapped", "are swapped", dropped(none=lambda u: (u >= .1) & (u < .2), everything=lambda u: u < .1)),
    ("kept below the rate", "kept there", dropped(lambda u_each, rates: u_each < rates)),
    ("nothing loses all", "no picture loses all", dropped(none=lambda u: u < 0)),
    ("nothing keeps all", "no picture keeps all", dropped(everything=lambda u: u < 0)),
    ("each by itself only", "only u_each counts", lambda u, u_each, rates: u_each >= rates),
    ("lost up to 0.2", "all below 0.2", dropped(none=lambda u: u < .2)),
    ("rates of pictures", "not to the pictures", dropped(lambda u_each, rates: u_each >= rates[:, None])),
    ("one subset for all", "first one", lambda u, u_each, rates: dropped()(u, u_each, rates)[:1].expand(u_each.shape)),
    ("u along the conditions", "belongs to the pictures", dropped(shape=lambda u: u)),
    ("0.5 for all", "rate 0.5", dropped(lambda u_each, rates: u_each >= .5)),
    ("numbers, not booleans", "bool", dropped(out=lambda kept: kept.double())),
    ("all from 0.9 on", "picture 0 must lose", dropped(everything=lambda u: u > .9)),
    ("its own draws", "what its own u_each says",
     lambda u, u_each, rates: dropped()(u, torch.rand(u_each.shape, generator=torch.Generator().manual_seed(0)).double() * .15, rates)),
]


def kept_in_a_loop(u, u_each, rates):
    return torch.tensor([[bool(x < .2 or k >= r) and not bool(x < .1) for k, r in zip(row, rates)] for x, row in zip(u, u_each)])


RIGHT = [kept_in_a_loop]
