"""Pictures in and out: files, figures, and what CLIP's image encoder wants to see.

An image is a float tensor (3, H, W) in [0, 1], several are (B, 3, H, W).
"""
import math
import warnings
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image, ImageDraw, ImageFont, ImageOps

from .checkpoints import write_atomically, write_tensors

SMALLEST = 8                          # below this a picture has nothing to learn from
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)      # of OpenAI's training images; LAION's models use them too
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


# files -----------------------------------------------------------------------------------------------------------

def load(path, size=None, smooth=True):
    """Read a picture: (3, H, W) in [0, 1].

    Args:
        path: any format that Pillow reads; transparent pixels become white, the camera's rotation is applied.
        size: cut the largest square out of the middle and resize it to size x size; None keeps the picture as it is.
        smooth: resize with Lanczos; False takes the nearest pixel, so that no colour is there that was not there before.

    Raises ValueError if the file is missing, unreadable or smaller than 8 pixels.
    """
    picture = _open(Path(path))
    if min(picture.size) < SMALLEST:
        raise ValueError(f"{path} is {picture.width}x{picture.height} pixels, expected at least {SMALLEST}x{SMALLEST}")
    if size is not None:
        how = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
        picture = _middle_square(picture).resize((size, size), how)
    return from_pillow(picture)


def load_masked(path, mask, size):
    """A picture (3, size, size) and its mask (1, size, size), 0 or 1: the light part of another picture of the same size is inside.

    ValueError if the sizes differ, or if what is cut out of the middle is inside all over, or nowhere.
    """
    picture, m = load(path), load(mask)
    if picture.shape != m.shape:
        sides = lambda x: f"{x.shape[-1]}x{x.shape[-2]}"
        raise ValueError(f"{mask} is {sides(m)} pixels and {path} {sides(picture)}; a mask must have the size of its picture")
    inside = (load(mask, size).mean(0, keepdim=True) > .5).float()
    if inside.all() or not inside.any():
        raise ValueError(f"{mask} is {'light' if inside.any() else 'dark'} all over, at least in its middle square; a mask is white inside "
                         "and black elsewhere")
    return load(path, size), inside


def sides(path):
    """Width and height of a picture, upright."""
    return _open(Path(path)).size


def _open(path):
    if not path.is_file():
        raise ValueError(f"no picture at {path}" + ("; it is a folder, see load_folder" if path.is_dir() else ""))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)      # a tiny file may claim to be huge
            with Image.open(path) as picture:
                picture = _in_bytes(ImageOps.exif_transpose(picture))
                if picture.has_transparency_data:
                    picture = picture.convert("RGBA")
                    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
                return picture.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path} cannot be read as a picture ({error})") from error


def _in_bytes(picture):
    """Grey of 16 bits as grey of 8; Pillow's own conversion makes white of everything above 255."""
    if not picture.mode.startswith("I"):
        return picture
    return Image.fromarray((np.asarray(picture).clip(0, 65535) / 257).round().astype(np.uint8))


def _middle_square(picture):
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def load_folder(folder, size):
    """All pictures of a folder, in the order of their names: (N, 3, size, size) in [0, 1].

    Raises ValueError if the folder is missing or has no picture, or if one of them cannot be read.
    """
    return torch.stack([load(path, size) for path in files(folder)])


def files(folder):
    """The paths of all pictures of a folder, in the order of their names; ValueError if there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
    if not paths:
        raise ValueError(f"no pictures in {folder}; expected files that end in {', '.join(SUFFIXES)}")
    return paths


def save(path, image):
    """Write a picture (3, H, W); values outside [0, 1] are clipped. The suffix chooses the format, PNG without one."""
    path = Path(path)
    picture = to_pillow(image)
    kind = Image.registered_extensions().get(path.suffix.lower()) if path.suffix else "PNG"
    if kind is None or kind not in Image.SAVE:
        raise ValueError(f"cannot write a picture as {path.suffix!r}; use one of {', '.join(SUFFIXES)}")
    write_atomically(path, lambda temporary: picture.save(temporary, format=kind))


def from_pillow(picture):
    """RGB Pillow image -> (3, H, W) in [0, 1]."""
    pixels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return rearrange(pixels, "(h w c) -> c h w", h=picture.height, c=3).float() / 255


def to_pillow(image):
    """(3, H, W) -> RGB Pillow image; values outside [0, 1] are clipped."""
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"an image has shape (3, H, W), got {tuple(image.shape)}")
    image = image.detach().float().cpu()
    if not image.isfinite().all():
        raise ValueError("the image holds values that are not finite; a decoder in half precision may have overflowed")
    pixels = (image.clamp(0, 1) * 255).round().byte()
    return Image.fromarray(rearrange(pixels, "c h w -> h w c").contiguous().numpy())


# figures ---------------------------------------------------------------------------------------------------------

def grid(images, columns, row_labels=None, column_labels=None, title=None, scale=1, smooth=False, gap=4):
    """Lay images out as a table on white, row by row.

    Args:
        images: (N, 3, H, W) in [0, 1]; the last row may be incomplete.
        columns: how many images in a row.
        row_labels, column_labels: texts at the left and on top, one per row and column, or None.
        title: text above everything, or None.
        scale: enlarge each image by this whole number.
        smooth: enlarge with Lanczos instead of nearest, which shows every pixel of a small picture.
        gap: white pixels between images.

    Returns (3, H', W').
    """
    if images.ndim != 4 or not len(images) or columns < 1:
        raise ValueError(f"a grid has images of shape (N, 3, H, W) in columns, got {tuple(images.shape)} in {columns}")
    rows = -(-len(images) // columns)
    for labels, count, what in [(row_labels, rows, "row"), (column_labels, columns, "column")]:
        if labels is not None and len(labels) != count:
            raise ValueError(f"{len(labels)} {what} labels for {count} {what}s")
    height, width = images.shape[-2] * scale, images.shape[-1] * scale
    heads = [_wrap(label, width) for label in column_labels or []]
    sides = [_wrap(label, max(width, 120)) for label in row_labels or []]
    cell = max(width, _text_width(heads))                     # a long word must not run into its neighbour
    left = gap + (_text_width(sides) + gap if sides else 0)
    right = left + columns * (cell + gap)
    titles = _wrap(title, right - 2 * gap) if title else []
    top = gap + _text_height(titles) + max(map(_text_height, heads), default=0)

    sheet = Image.new("RGB", (right, top + rows * (height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    _write(draw, gap, gap, titles)
    for j, lines in enumerate(heads):
        _write(draw, left + j * (cell + gap) + cell // 2, top - _text_height(lines), lines, anchor="ma")
    for i, lines in enumerate(sides):
        _write(draw, gap, top + i * (height + gap) + (height - _text_height(lines)) // 2, lines)
    how = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    for n, image in enumerate(images):
        i, j = divmod(n, columns)
        corner = (left + j * (cell + gap) + (cell - width) // 2, top + i * (height + gap))
        sheet.paste(to_pillow(image).resize((width, height), how), corner)
    return from_pillow(sheet)


def save_figure(path, images, row_labels=None, column_labels=None, title=None, scale=2, smooth=False):
    """Write a table of images (R, C, 3, H, W), e.g. seeds as rows and scales as columns; see `grid`."""
    if images.ndim != 5:
        raise ValueError(f"a figure has images of shape (rows, columns, 3, H, W), got {tuple(images.shape)}")
    flat = rearrange(images, "r c d h w -> (r c) d h w")
    save(path, grid(flat, images.shape[1], row_labels, column_labels, title, scale, smooth))


def save_samples(folder, images, prompts):
    """Write pictures of some prompts, n of each, prompt by prompt: (n * len(prompts), 3, H, W) in [0, 1].

    samples.safetensors holds them as `images`, uint8, and samples.png shows them, a row for each prompt.
    """
    if not prompts or not len(images) or len(images) % len(prompts):
        raise ValueError(f"{len(images)} pictures of {len(prompts)} prompts, expected as many of each")
    table = grid(images, len(images) // len(prompts), row_labels=prompts, scale=2 if images.shape[-1] < 128 else 1)
    write_tensors(Path(folder) / "samples.safetensors", {"images": (images.clamp(0, 1) * 255).round().byte()})
    save(Path(folder) / "samples.png", table)


LINE = 16                             # pixels from one line of text to the next


@lru_cache(maxsize=None)
def _font():
    return ImageFont.load_default(12)


def _text_width(paragraphs):
    return max((math.ceil(_font().getlength(line)) for lines in paragraphs for line in lines), default=0)


def _text_height(lines):
    return LINE * len(lines)


def _wrap(text, width):
    """Break a text between words so that no line is wider than `width`, unless a single word is."""
    lines = []
    for word in str(text).split():
        if lines and _text_width([[f"{lines[-1]} {word}"]]) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _write(draw, x, y, lines, anchor="la"):
    for i, line in enumerate(lines):
        draw.text((x, y + i * LINE), line, fill="black", font=_font(), anchor=anchor)


# for CLIP --------------------------------------------------------------------------------------------------------

def clip_pixels(images, size=224, mean=CLIP_MEAN, std=CLIP_STD):
    """What CLIP's image encoder reads: images (B, 3, H, W) in [0, 1] -> (B, 3, size, size), normalised.

    Resize the shorter side to `size` (bicubic, antialiased), cut out the middle, subtract the mean, divide by the
    standard deviation. Differentiable. The original resizes 8-bit pictures, so its values differ by rounding.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"expected images (B, 3, H, W), got {tuple(images.shape)}")
    height, width = images.shape[-2:]
    new = [int(size * side / min(height, width)) for side in (height, width)]
    if new != [height, width]:
        images = F.interpolate(images, new, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    top, left = (round((side - size) / 2) for side in new)
    images = images[..., top:top + size, left:left + size]
    mean, std = (rearrange(images.new_tensor(v), "c -> c 1 1") for v in (mean, std))
    return (images - mean) / std
