"""ex12_sample_ddim. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch

f64 = torch.float64


def sampler(times=lambda T, steps: [k * (T // steps) for k in reversed(range(steps))], told=lambda i, t: t, grad=False, last=1.0,
            neighbour=False, stop=None, start=lambda x, x_T: x, eps_again=False):
    def run(predict, x_T, alpha_bar, steps):
        with torch.set_grad_enabled(grad):
            visits, x = times(len(alpha_bar), steps), x_T
            for i, t in enumerate(visits[:stop]):
                following = t - 1 if neighbour else visits[i + 1] if i + 1 < len(visits) else -1
                at_the_end = torch.ones((), dtype=f64) if last else alpha_bar[0]
                a, a_next = alpha_bar[t], alpha_bar[following] if following >= 0 else at_the_end
                eps = predict(start(x, x_T), told(i, t))
                x_0 = (start(x, x_T) - (1 - a).sqrt() * eps) / a.sqrt()
                x = a_next.sqrt() * x_0 + (1 - a_next).sqrt() * (torch.zeros_like(eps) if eps_again else eps)
            return x
    return run


WRONG = [
    ("the number of the step", "number of the step", sampler(told=lambda i, t: 3 - i)),
    ("rising", "rise", sampler(lambda T, steps: [k * (T // steps) for k in range(steps)])),
    ("with gradients", "torch.no_grad", sampler(grad=True)),
    ("ends at alpha_bar[0]", "last step is missing", sampler(last=0)),
    ("the neighbour in the table", "go to the next t", sampler(neighbour=True)),
    ("from x_T again", "where the one before ended", sampler(start=lambda x, x_T: x_T)),
    ("T - 1 first", "multiples of t // steps", sampler(lambda T, steps: torch.linspace(T - 1, 0, steps).long().tolist())),
    ("range's own end", "must call predict 5 times", sampler(lambda T, steps: list(range(0, T, T // steps))[::-1])),
    ("without t = 0", "multiples of t // steps", sampler(lambda T, steps: [(k + 1) * (T // steps) - 1 for k in reversed(range(steps))])),
    ("one step too few", "must call predict 4 times", sampler(stop=-1)),
    ("noise dropped", "not the steps", sampler(eps_again=True)),
    ("nothing done", "never called", lambda predict, x, alpha_bar, steps: x),
]


def sample_with_a_while(predict, x_T, alpha_bar, steps):
    with torch.no_grad():
        d, x = len(alpha_bar) // steps, x_T.clone()
        t = torch.tensor((steps - 1) * d)
        while t >= 0:
            eps, a = predict(x, t), alpha_bar[t]
            after = alpha_bar[t - d] if t >= d else torch.tensor(1.0, dtype=f64)
            x = (after / a).sqrt() * (x - (1 - a).sqrt() * eps) + (1 - after).sqrt() * eps
            t = t - d
        return x


RIGHT = [sample_with_a_while]
