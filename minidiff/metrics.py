"""Numbers that papers measure on pictures, and tables of them. Knows no paper and no model: networks are passed in."""
import torch
import torch.nn.functional as F

from .images import clip_pixels


def spearman(x, y):
    """Rank correlation of two 1-d tensors of one length; equal values share their mean rank.

    nan if one of the two is constant (it has no order that could agree) or holds a nan.
    """
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"spearman compares two 1-d tensors of one length, got shapes {tuple(x.shape)} and {tuple(y.shape)}")
    return float(torch.corrcoef(torch.stack([ranks(x), ranks(y)]))[0, 1]) if len(x) > 1 else float("nan")


def ranks(v):
    """(n,) float64: the place 1 .. n of each value in ascending order; equal values share their mean place."""
    _, place, count = v.unique(return_inverse=True, return_counts=True)
    mean_rank = count.cumsum(0) - (count - 1) / 2                       # of k equal values that end at place c
    return torch.where(v.isnan(), torch.nan, mean_rank.double()[place])


def perceptual_distance(a, b, layers):
    """How different two pictures look to a network: LPIPS' formula with all weights 1.

    Args:
        a, b: images (n, 3, H, W) in [0, 1], compared one by one.
        layers: images -> list of feature maps (n, C_l, H_l, W_l).

    Returns (n,): 0 for equal pictures; each layer adds between 0 and 4.

    Source: Zhang, Isola, Efros, Shechtman, Wang 2018, arXiv:1801.03924, Eq. (1). LPIPS itself weights the channels of a
    network for photographs by what people judged alike; those weights are not part of minidiff. On toybox the meter's
    convolutions serve (`minidiff.toybox.meter.shipped().layers`), so values are not comparable with LPIPS of papers.
    """
    total = 0.0
    for y, y_0 in zip(layers(a), layers(b), strict=True):
        y, y_0 = F.normalize(y.float(), dim=1), F.normalize(y_0.float(), dim=1)
        total = total + (y - y_0).square().sum(1).mean((1, 2))          # Eq. (1) with w_l = 1
    return total


@torch.no_grad()
def clip_embeddings(clip, tokenizer, inputs):
    """Unit vectors (n, E), on the CPU, of images (n, 3, H, W) in [0, 1] or of a list of texts.

    Products of pictures with pictures are papers' "image alignment" (CLIP-I), with texts their "text alignment" (CLIP-T).
    """
    size, weight, out = clip.config["vision_config"]["image_size"], clip.logit_scale, []
    for i in range(0, len(inputs), 256):
        part = inputs[i:i + 256]
        is_pictures = isinstance(part, torch.Tensor)
        e = clip.encode_image(clip_pixels(part.to(weight), size)) if is_pictures else clip.encode_text(tokenizer(list(part)).to(weight.device))
        out.append(F.normalize(e.float(), dim=1).cpu())
    return torch.cat(out)


def clip_score(clip, tokenizer, images, texts):
    """100 x the cosine of the embeddings of each picture and of its text, (n,) in [-100, 100], on the CPU.

    Args:
        clip, tokenizer: a minidiff.CLIP and the tokenizer beside it.
        images: (n, 3, H, W) in [0, 1].
        texts: n texts, or one text for all pictures.

    Papers' "CLIP score" is this number, as a rule. The CLIPScore of Hessel et al. 2021 (arXiv:2104.08718) is
    2.5 max(cosine, 0). Values depend on the CLIP: compare only those of the same weights.
    """
    texts = [texts] * len(images) if isinstance(texts, str) else list(texts)
    if len(texts) != len(images):
        raise ValueError(f"{len(texts)} texts for {len(images)} pictures; give one text for each picture, or one for all")
    return 100 * (clip_embeddings(clip, tokenizer, images) * clip_embeddings(clip, tokenizer, texts)).sum(1)


def frechet(a, b):
    """Frechet distance of two sets of feature vectors (n, d), (m, d), as of two Gaussians. Heusel et al., arXiv:1706.08500."""
    a, b = a.double(), b.double()
    ca, cb = torch.cov(a.T), torch.cov(b.T)
    root = torch.linalg.eigvals(ca @ cb).real.clamp(min=0).sqrt().sum()        # trace of (Ca Cb)^(1/2)
    return float((a.mean(0) - b.mean(0)).square().sum() + ca.trace() + cb.trace() - 2 * root)


def kid(a, b):
    """Kernel distance of two sets of feature vectors (n, d), (m, d): 0 on average for two draws from one source, however few.

    The squared maximum mean discrepancy under the kernel (x . y / d + 1)^3, without bias: it may come out a little below 0.
    Papers give it times 1000, of Inception's features; values of different features cannot be compared.

    Source: Binkowski, Sutherland, Arbel, Gretton 2018, arXiv:1801.01401; what compares a vector with itself is left out.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"kid compares two sets of at least 2 vectors of one width, got shapes {tuple(a.shape)} and {tuple(b.shape)}")
    kernel = lambda x, y: (x.double() @ y.double().T / x.shape[1] + 1) ** 3
    among = lambda k: (k.sum() - k.trace()) / (len(k) * (len(k) - 1))           # of different vectors
    return float(among(kernel(a, a)) + among(kernel(b, b)) - 2 * kernel(a, b).mean())


def psnr(a, b, where):
    """Peak signal-to-noise ratio of pictures (n, 3, H, W) in [0, 1] where a mask (n, 1, H, W) is 1: (n,), in dB, at most 100."""
    error = (where * (a - b).square()).sum((1, 2, 3)) / (a.shape[1] * where.sum((1, 2, 3))).clamp(min=1)
    return -10 * error.clamp(min=1e-10).log10()


def overlap(a, b):
    """Intersection over union of masks (n, 1, H, W) of zeros and ones: (n,); 0 if both are empty."""
    return (a * b).sum((1, 2, 3)) / torch.maximum(a, b).sum((1, 2, 3)).clamp(min=1)


# ------------------------------------------------------------------------------------------------ tables

def mean_std(values, digits=2):
    """ "0.95 ± 0.02": mean and standard deviation (n - 1 in the denominator) of numbers; of a single one, only itself."""
    v = torch.as_tensor(values, dtype=torch.float64)
    return f"{v.mean():.{digits}f}" + (f" ± {v.std():.{digits}f}" if v.numel() > 1 else "")


def markdown(rows, columns):
    """A Markdown table.

    Args:
        rows: dicts; floats are written with two decimals, anything else as it is, what is absent stays empty.
        columns: which keys, from left to right; as a dict {key: heading}, under other headings.
    """
    headings = columns if isinstance(columns, dict) else {c: c for c in columns}
    text = lambda v: (f"{v:.2f}" if isinstance(v, float) else str(v)).replace("|", r"\|")
    line = lambda cells: f"| {' | '.join(map(text, cells))} |"
    body = [line(row.get(key, "") for key in headings) for row in rows]
    return "\n".join([line(headings.values()), "|---" * len(headings) + "|", *body]) + "\n"
