import torch

from .tools import call, constant, randn, same


def check_sample_ddim(sample_ddim):
    alpha_bar, x_T = torch.linspace(.97, .02, 12, dtype=torch.float64), randn(2, 3, 4, 4, seed=1)
    weight, seen = torch.ones((), dtype=torch.float64, requires_grad=True), []

    def predict(x, t):
        seen.append(int(t))
        return weight * (x + .2 * int(t)).sin()
    got = call(sample_ddim, predict, x_T, alpha_bar, 4)
    check_times(seen, [9, 6, 3, 0])
    constant(got, "the result carries the gradients of all steps, and memory with them: sample under torch.no_grad()")
    path, one = [x_T], torch.ones((), dtype=torch.float64)
    for a, a_next, t in zip(alpha_bar[[9, 6, 3, 0]], [*alpha_bar[[6, 3, 0]], one], (9, 6, 3, 0)):
        eps = predict(path[-1], t).detach()
        path.append(a_next.sqrt() * (path[-1] - (1 - a).sqrt() * eps) / a.sqrt() + (1 - a_next).sqrt() * eps)
    same(got, path[-1],
         "the timesteps are right, but not the steps. Does each start where the one before ended, and go to the next t of the list?", {
        "the last step is missing: after t = 0 comes the picture, where alpha_bar is 1": path[-2],
        "this is x_T, unchanged: x must be what the step made": x_T})
    seen.clear()
    call(sample_ddim, predict, x_T, alpha_bar, 5)
    check_times(seen, [8, 6, 4, 2, 0])


def check_times(seen, want):
    steps = len(want)
    assert seen, "predict was never called"
    assert seen != list(reversed(range(steps))), f"predict got the number of the step, {seen}; it knows the timesteps, {want}"
    assert seen != want[::-1], f"the timesteps rise, {seen}: noise comes first, so they must fall"
    assert len(seen) == steps, f"{steps} steps must call predict {steps} times, not {len(seen)}, at t = {want}, not {seen}"
    assert seen == want, f"predict was called at t = {seen}, expected {want}: multiples of T // steps, down to 0"
