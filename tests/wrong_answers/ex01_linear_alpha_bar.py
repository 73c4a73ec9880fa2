"""ex01_linear_alpha_bar. WRONG: (a mistake, words that the check must say, the function). RIGHT: other ways to write the answer."""
import torch

f64 = torch.float64
betas = lambda T, start, end: torch.linspace(start, end, T, dtype=f64)

WRONG = [
    ("betas multiplied", "multiplies the betas", lambda T, start, end: betas(T, start, end).cumprod(0)),
    ("no product", "each step alone", lambda T, start, end: 1 - betas(T, start, end)),
    ("a step too late", "one place too late",
     lambda T, start, end: torch.cat([torch.ones(1, dtype=f64), (1 - betas(T, start, end)).cumprod(0)[:-1]])),
    ("a sum", "what is left is a product", lambda T, start, end: 1 - betas(T, start, end).cumsum(0)),
    ("a square root", "square root", lambda T, start, end: (1 - betas(T, start, end)).cumprod(0).sqrt()),
    ("without the end", "both ends are included",
     lambda T, start, end: (1 - start - (end - start) * torch.arange(T, dtype=f64) / T).cumprod(0)),
    ("the other schedule", "root of beta", lambda T, start, end: (1 - betas(T, start ** .5, end ** .5) ** 2).cumprod(0)),
    ("float32", "float64", lambda T, start, end: (1 - torch.linspace(start, end, T)).cumprod(0)),
    ("one entry too many", "shape", lambda T, start, end: (1 - betas(T + 1, start, end)).cumprod(0)),
    ("the last number only", "shape", lambda T, start, end: (1 - betas(T, start, end)).prod()),
    ("only for short schedules", "4e-5", lambda T, start, end: (1 - betas(T, start, end)).clamp(min=.5).cumprod(0).clamp(min=1e-3)),
]


def products(T, start, end):
    out, left = [], 1.0
    for t in range(T):
        left *= 1 - (start + (end - start) * t / (T - 1))
        out.append(left)
    return torch.tensor(out, dtype=f64)


RIGHT = [products, lambda T, start, end: (1 - betas(T, start, end)).log().cumsum(0).exp()]
