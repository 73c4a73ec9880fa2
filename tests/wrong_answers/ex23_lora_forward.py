"""ex23_lora_forward. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""

def lora(update=lambda x, A, B: x @ A.T @ B.T, factor=lambda A, alpha, scale: scale * alpha / len(A), frozen=lambda x, W: x @ W.T):
    return lambda x, W, A, B, alpha, scale: frozen(x, W) + factor(A, alpha, scale) * update(x, A, B)


def merged_into_W(x, W, A, B, alpha, scale):
    W += scale * alpha / len(A) * (B @ A).detach()
    return x @ W.T


WRONG = [
    ("W not transposed", "not transposed", lora(frozen=lambda x, W: x @ W)),
    ("no rank", "divided by the rank", lora(factor=lambda A, alpha, scale: scale * alpha)),
    ("the wrong rank", "small one", lora(factor=lambda A, alpha, scale: scale * alpha / A.shape[1])),
    ("upside down", "upside down", lora(factor=lambda A, alpha, scale: scale * len(A) / alpha)),
    ("no alpha", "alpha and r are not used", lora(factor=lambda A, alpha, scale: scale)),
    ("no scale", "must be the frozen layer", lora(factor=lambda A, alpha, scale: alpha / len(A))),
    ("scale on all", "must be the frozen layer", lambda x, W, A, B, alpha, scale: scale * (x @ W.T + alpha / len(A) * x @ A.T @ B.T)),
    ("scale or not", "scale is not used", lora(factor=lambda A, alpha, scale: alpha / len(A) if scale else 0)),
    ("B A not transposed", "wrong way", lora(lambda x, A, B: x @ (B @ A))),
    ("no gradient", "no gradient reaches", lora(lambda x, A, B: (x @ A.T @ B.T).detach())),
    ("A detached", "reaches a", lora(lambda x, A, B: x @ A.detach().T @ B.T)),
    ("the update alone", "must be the frozen layer", lora(frozen=lambda x, W: 0)),
    ("into W itself", "changed in place",
     lambda x, W, A, B, alpha, scale: lora()(x, W, A, B, alpha, scale) if not scale else merged_into_W(x, W, A, B, alpha, scale)),
    ("A before B is transposed", "do shapes and types fit", lora(lambda x, A, B: x @ A @ B)),
]

RIGHT = [lambda x, W, A, B, alpha, scale: x @ (W + scale * alpha / B.shape[1] * B @ A).T]
