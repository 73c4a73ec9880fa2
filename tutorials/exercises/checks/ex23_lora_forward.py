from .tools import call, gradient, randn, same


def check_lora_forward(lora_forward):
    x, W = randn(3, 4, seed=1), randn(4, 4, seed=2)                             # d_in = d_out: a missing transpose raises no error
    A, B = randn(2, 4, seed=3).requires_grad_(), randn(4, 2, seed=4).requires_grad_()
    alpha, scale = 3.0, .7
    frozen, update = x @ W.T, x @ A.T @ B.T
    same(call(lora_forward, x, W, A, B, alpha, 0.0), frozen, "scale 0 must be the frozen layer, x @ W.T", {
        "W is not transposed: a Linear layer is x @ W.T": x @ W})
    got = call(lora_forward, x, W, A, B, alpha, scale)
    same(got, frozen + scale * alpha / 2 * update, "y = W x + scale (alpha / r) B A x", {
        "alpha must be divided by the rank r": frozen + scale * alpha * update,
        "r is the small one of A's two numbers, len(A)": frozen + scale * alpha / 4 * update,
        "upside down: alpha / r, not r / alpha": frozen + scale * 2 / alpha * update,
        "alpha and r are not used": frozen + scale * update,
        "the scale multiplies the frozen layer, too": scale * (frozen + alpha / 2 * update),
        "the scale is not used": frozen + alpha / 2 * update,
        "A and B are multiplied in the wrong way: first A, then B, each transposed": frozen + scale * alpha / 2 * x @ (B @ A),
        "the frozen layer is missing": scale * alpha / 2 * update})
    for name, p in (("A", A), ("B", B)):
        g = gradient(got, p, "no gradient reaches A and B, which are what is trained: no detach, .data or no_grad here")
        assert g.abs().max() > 0, f"no gradient reaches {name}"
