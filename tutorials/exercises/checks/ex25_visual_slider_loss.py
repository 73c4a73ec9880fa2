import torch

from .tools import call, gradient, numbers, randn, same


def check_visual_slider_loss(visual_slider_loss):
    x_A, x_B, eps = (randn(3, 2, 4, 3, seed=s) for s in (1, 2, 3))              # B = W: a wrong axis raises no error
    alpha_bar, t, weight, seen = numbers(.9, .6, .3, .1), torch.tensor([3, 0, 2]), numbers(.7).requires_grad_(), []

    def predict(x_t, times, scale):
        assert torch.equal(torch.as_tensor(times), t), "predict must get t as second argument"
        seen.append((float(scale), x_t.detach().clone()))
        return .4 * x_t + weight * scale
    loss = call(visual_slider_loss, predict, x_A, x_B, t, eps, alpha_bar)
    assert sorted(s for s, _ in seen) == [-1, 1], f"predict must be called at scale -1 and at scale +1, not at {[s for s, _ in seen]}"
    a, (at_A, at_B) = alpha_bar[t].reshape(3, 1, 1, 1), (x for _, x in sorted(seen, key=lambda call: call[0]))
    noised = lambda x, a=a, root=.5: a ** root * x + (1 - a) ** root * eps
    causes = lambda own, other: {
        "the ends are swapped: the picture before, A, belongs to scale -1": noised(other), "predict got a clean picture: noise it": own,
        "the square roots are missing in x_t": noised(own, root=1),
        "alpha_bar was used along the width: make it (B, 1, 1, 1)": noised(own, alpha_bar[t])}
    same(at_A, noised(x_A), "at scale -1 predict must get A, with the noise eps that was given", causes(x_A, x_B))
    same(at_B, noised(x_B), "at scale +1 predict must get B, with the same noise eps as A", causes(x_B, x_A))
    e_A, e_B = .4 * at_A - .7, .4 * at_B + .7
    mse = lambda x, y: (x - y).square().mean()
    same(loss, mse(e_A, eps) + mse(e_B, eps), "the loss must be the sum of two mean squared errors, of both ends against eps", {
        "this is their mean; they add up": (mse(e_A, eps) + mse(e_B, eps)) / 2,
        "only the end after is learned: B; add the one before": mse(e_B, eps),
        "only the end before is learned: A; add the one after": mse(e_A, eps),
        "the two predictions are compared with each other; each must find the noise": mse(e_A, e_B),
        "the predictions are compared with the pictures; they must find the noise": mse(e_A, x_A) + mse(e_B, x_B),
        "errors are summed over all numbers: take the mean": 72 * (mse(e_A, eps) + mse(e_B, eps))})
    g = gradient(loss, weight, "no gradient reaches the slider: no detach, no no_grad here")
    same(g, numbers(2) * ((e_B - eps).mean() - (e_A - eps).mean()), "the gradient must come from both ends, -1 and +1")
