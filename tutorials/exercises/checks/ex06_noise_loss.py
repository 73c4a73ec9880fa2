from .tools import call, gradient, numbers, randn, same


def check_noise_loss(noise_loss):
    eps_hat, eps, weight = randn(3, 2, 4, 3, seed=1).requires_grad_(), randn(3, 2, 4, 3, seed=2), numbers(.1, 1, 4)
    d = (eps_hat - eps).detach()
    each = [sum(float(x) ** 2 for x in d[b].flatten()) / 24 for b in range(3)]
    want = sum(w * e for w, e in zip(weight.tolist(), each)) / 3
    loss = call(noise_loss, eps_hat, eps, weight)
    if getattr(loss, "ndim", 0):
        assert loss.shape != (3,), "this has one number for each picture; a loss is one number, their mean"
    same(loss, numbers(want).squeeze(), "the loss must be the mean of weight times each picture's mean squared error", {
        "errors are summed over the pixels: the loss would grow with the picture; take the mean": numbers(want * 24).squeeze(),
        "the weights were multiplied along the width: weigh each picture's error, of shape (B,)": (weight * d.square()).mean(),
        "divided by the sum of the weights: then all weights could be doubled and nothing would change":
            numbers(want * 3).squeeze() / weight.sum(),
        "the weights are not used": d.square().mean(),
        "the difference must be squared (this is its absolute value)": (weight * d.abs().mean((1, 2, 3))).mean(),
        "the weight was squared too: multiply after squaring": (weight * weight * d.square().mean((1, 2, 3))).mean(),
        "this is the root of the mean squared error": (weight * d.square().mean((1, 2, 3)).sqrt()).mean()})
    g = gradient(loss, eps_hat, "no gradient reaches eps_hat: .detach(), .item() or no_grad cut it off")
    same(g, 2 * d * weight.reshape(3, 1, 1, 1) / 72, "the value is right, but the gradient is not that of the formula")
