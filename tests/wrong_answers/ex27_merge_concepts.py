"""ex27_merge_concepts. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch

f64 = torch.float64
rows = torch.arange


def merged(D=lambda C, G: torch.linalg.solve(G, C.T).T, V=lambda Ws, Cs: torch.cat([W @ C.T for W, C in zip(Ws, Cs)], 1),
           new=lambda V, W_0, C: V - W_0 @ C.T, out=lambda W_0, update: W_0 + update, to=lambda x: x.double(),
           gram=lambda C_reg: C_reg.T @ C_reg, use=slice(None)):
    def merge(W_0, Ws, Cs, C_reg):
        W_0, C_reg, Ws, Cs = to(W_0), to(C_reg), [to(W) for W in Ws[use]], [to(C) for C in Cs[use]]
        C = torch.cat(Cs)
        d = D(C, gram(C_reg))
        return out(W_0, new(V(Ws, Cs), W_0, C) @ torch.linalg.solve(d @ C.T, d)).double()
    return merge


def soft_constraints(W_0, Ws, Cs, C_reg):
    """Least squares over concepts and captions alike."""
    rows = torch.cat([*Cs, C_reg]).double()
    wanted = torch.cat([(W.double() @ C.double().T).T for W, C in zip([*Ws, W_0], [*Cs, C_reg])])
    return torch.linalg.lstsq(rows, wanted).solution.T


WRONG = [
    ("no captions", "captions are not used", merged(D=lambda C, G: C)),
    ("a mean", "mean of the concepts", lambda W_0, Ws, Cs, C_reg: (sum(Ws) / len(Ws)).double()),
    ("updates added", "keeps neither", lambda W_0, Ws, Cs, C_reg: (W_0 + sum(W - W_0 for W in Ws)).double()),
    ("all rows by the first W", "its own w_n", merged(V=lambda Ws, Cs: Ws[0] @ torch.cat(Cs).T)),
    ("sign", "moves away", merged(new=lambda V, W_0, C: W_0 @ C.T - V)),
    ("without W_0", "w_0 is missing", merged(out=lambda W_0, update: update)),
    ("nothing subtracted", "not subtracted", merged(new=lambda V, W_0, C: V)),
    ("G for its inverse", "inverse of g", merged(D=lambda C, G: C @ G)),
    ("the first concept only", "only the first concept", merged(use=slice(1))),
    ("soft constraints", "keep the concepts exactly", soft_constraints),
    ("float32", "float64", lambda *args: merged(to=lambda x: x, out=lambda W_0, update: W_0 + update)(*args).float()),
    ("float32, called float64", "computed in float32", merged(to=lambda x: x)),
    ("C_reg C_reg^T", "do shapes and types fit", merged(gram=lambda C_reg: C_reg @ C_reg.T)),
    ("a strong ridge", "nearest to w_0 on the captions", merged(gram=lambda C_reg: C_reg.T @ C_reg + torch.eye(6, dtype=f64))),
]


def merged_with_inverses(W_0, Ws, Cs, C_reg):
    W_0, Ws, Cs, C_reg = W_0.double(), [W.double() for W in Ws], [C.double() for C in Cs], C_reg.double()
    C, V = torch.cat(Cs), torch.cat([C @ W.T for W, C in zip(Ws, Cs)]).T
    D = C @ torch.linalg.inv(C_reg.T @ C_reg)
    return W_0 + (V - W_0 @ C.T) @ torch.linalg.inv(D @ C.T) @ D


RIGHT = [merged_with_inverses]
