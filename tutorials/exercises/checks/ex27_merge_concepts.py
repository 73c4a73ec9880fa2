import torch

from .tools import call, randn, same


def nearest(W_0, V, C, G):
    """The same minimum from its linear equations, unknowns and multipliers at once: no formula with inverses."""
    s, d = C.shape
    system = torch.cat([torch.cat([G, C.T], dim=1), torch.cat([C, torch.zeros(s, s, dtype=G.dtype)], dim=1)])
    right = torch.cat([torch.zeros(d, len(V), dtype=G.dtype), (V - W_0 @ C.T).T])
    return W_0 + torch.linalg.solve(system, right)[:d].T


def check_merge_concepts(merge_concepts):
    W_0, Ws = randn(3, 6, seed=1).float(), [randn(3, 6, seed=s).float() for s in (2, 3)]
    Cs = [randn(n, 6, seed=s).float() for n, s in ((2, 4), (1, 5))]
    C_reg = (randn(40, 6, seed=6) * torch.logspace(0, -2, 6, dtype=torch.float64)).float()
    got = call(merge_concepts, W_0, Ws, Cs, C_reg)
    W_0, C, C_reg = W_0.double(), torch.cat(Cs).double(), C_reg.double()
    own = [W.double() @ C_n.double().T for W, C_n in zip(Ws, Cs)]
    V, G, cut = torch.cat(own, dim=1), C_reg.T @ C_reg, lambda A, B: torch.linalg.solve(A @ B.T, A)
    D = torch.linalg.solve(G, C.T).T
    same(getattr(got, "double", lambda: got)(), nearest(W_0, V, C, G),
         "W must keep the concepts exactly, and be the nearest to W_0 on the captions that does", {
        "the captions are not used: with D = C, W is the nearest to W_0 in itself, not on the captions":
            W_0 + (V - W_0 @ C.T) @ cut(C, C),
        "this is the mean of the concepts' matrices, which keeps none of them": (Ws[0] + Ws[1]).double() / 2,
        "the updates are added, which keeps neither concept": (Ws[0] + Ws[1]).double() - W_0,
        "V must have the columns of each concept, made by its own W_n": nearest(W_0, Ws[0].double() @ C.T, C, G),
        "this moves away from the concepts: V - W_0 C^T, not the other way round": W_0 - (V - W_0 @ C.T) @ cut(D, C),
        "W_0 is missing in front": (V - W_0 @ C.T) @ cut(D, C),
        "W_0 C^T is not subtracted: only what is new on the concepts' words is to be added": W_0 + V @ cut(D, C),
        "D must have the inverse of G, not G itself": W_0 + (V - W_0 @ C.T) @ cut(C @ G, C),
        "only the first concept is kept": nearest(W_0, own[0], Cs[0].double(), G)}, rtol=1e-3, atol=1e-4)
    same(got, nearest(W_0, V, C, G),
         "the result is float64, but was computed in float32: bring everything to float64 first", rtol=1e-7, atol=1e-8)
