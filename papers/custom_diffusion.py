"""Custom Diffusion: "Multi-Concept Customization of Text-to-Image Diffusion". Kumari, Zhang, Zhang, Shechtman, Zhu, CVPR 2023,
arXiv:2212.04488v2.

Learn one particular cat from a few pictures: only the keys and values of cross-attention move, and one new word. Several such
concepts are learned together, or learned apart and merged in closed form.

    paper           code               meaning                                                        shape
    --------------  -----------------  -------------------------------------------------------------  ---------------------
    V*              concept.token      the new word, "<new1>"; its row in the text encoder's table     learned.rows (n, D)
    W^k, W^v        trained            projections of the text to keys and values, every attn2         (o, d) each
    c               context            states of the text                                             (B, L, d)
    x_t, eps        z_t, eps           noisy latents, and the noise in them                           (B, C, h, w)
    m               mask               where a shrunken picture is, in latents                        (B, 1, h, w)
    Sec. 3.2        resized            pictures drawn smaller or larger, and said to be so
    W_0; W_1 ..     W_0, W             pretrained; fine-tuned on one concept                          (o, d)
    C, V            C, V               text of the concepts' words; what their W make of it           (s, d), (o, s)
    C_reg           C_reg              text of many captions, a row for each token                    (s_reg, d)
    W, hat          merged             all concepts in one W (Sec. 3.2, App. B)                        (o, d)

Where the paper and the authors' code differ, this file follows
  * the paper: pictures of the concept and of its class weigh the same. (In their later script the first weigh four times as much.)
  * the paper: every new word is trained. (There, with several words, the last one is not.)
  * their code: the class word tells a style from a thing; here it is "art", or ends in it (theirs contains it).
  * their code: a third of the pictures zoomed in, size words in front, pictures from 0.6 of the size on left as they are.
  * their code: the loss of a masked picture is a mean over what the mask lets through; here also over the latent channels, so that
    the number is comparable with other losses (theirs is four times that).
  * their later script: in the merge only the new word and what follows it are held to the concepts; "a photo of a" is left to the
    captions. (In the first one that words it "a photo of", by an oversight, it is not.)
Differs from both
  * No weight decay: it would pull W towards 0, not W_0, and with it every row of a table that is a parameter. Here the other rows
    are a buffer, which nothing moves.
  * On toybox, whose UNet is a hundred times smaller, learning rates are 2e-3 for W and 3e-4 for V* (paper, and here for other models:
    8e-5 for both): with a fast V* pictures follow the rest of the prompt less. They fall to 0 over the last half of the steps (paper:
    constant).
  * Prompts are "a photo of a <new1> cat" (paper: "photo of a ..."), and on toybox, which has never read "far away" or "close up",
    a small cat is "a small <new1> cat" and a large one "a large ...". There sizes also change less (2/3 to 1.2 in place of 1/3 to
    1.4): a third of 64 pixels is five latents. Which of the two is done depends on whether the tokenizer knows the words.
  * Class pictures are drawn by toybox, in place of 200 of LAION-400M. Half of their captions say no more than "a cat in a garden":
    toybox's own nearly always name a colour, and then nothing holds the plain word to its class.
  * No word of toybox is rare. V* starts at the row of a letter that no caption contains, stretched to the length of a common one's.
  * On toybox the moongate's class word is "moon" and the flower's "sunflower": the model knows no others.

Cost    the demonstration takes 34 s on 2 CPU cores with AVX512-BF16 (54 s in float32); 0.66 MB are stored.
Run     python papers/custom_diffusion.py                                        learns a table of toybox and draws it in new scenes
        python papers/custom_diffusion.py train --images DIR --class-word cat --model PATH
        python papers/custom_diffusion.py train --images DIR --class-word art --model PATH           a style, "in the style of <new1> art"
        python papers/custom_diffusion.py train --concept cat --concept chair --out both             two concepts, jointly
        python papers/custom_diffusion.py sample --learned cat chair --prompt "a <new1> cat next to a <new2> chair"     merged
        python papers/custom_diffusion.py merge --learned cat chair --out FOLDER
        python papers/custom_diffusion.py merge --learned a.ckpt b.ckpt --named "<new1> cat" "<new2> chair" --captions FILE --model PATH
        python papers/custom_diffusion.py export --learned cat --layout lora --ratio 0.6 --out FOLDER   for other programs
        python papers/custom_diffusion.py analyze                                rate of change and compression: see papers/tables/
        python papers/custom_diffusion.py eval --table main                      the paper's tables: see papers/tables/
"""
import argparse
import math
import time
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange

import minidiff
from minidiff import command, deltas, devices, images, tokens, toybox
from minidiff.attention import TextKV, recorded
from minidiff.checkpoints import find
from minidiff.clip import CLIP
from minidiff.deltas import Delta
from minidiff.metrics import clip_embeddings, markdown
from minidiff.pipeline import read_lines, read_prompts
from minidiff.tokenizer import Tokenizer
from minidiff.toybox.individuals import CLASS_WORDS, HELD_OUT
from minidiff.toybox.scenes import MEMBERS
from minidiff.training import progress, update

PROMPT, STYLE = "a photo of a {}", "a painting in the style of {}"  # Sec. 3.1
STEPS = 250
RARE = ("ktn", "pll", "ucd</w>")                                 # of CLIP's vocabulary, in the authors' code
# Sizes of Sec. 3.2, of the picture's side: the smallest; below which it is pasted; zoomed in, from and to. And what prompts then say.
SIZES = (1 / 3, .6, 1.2, 1.4)                                    # their code
SAYS = {"far": ("a far away {}", "a very small {}"), "": ("a {}",), "near": ("a zoomed in {}", "a close up {}")}
TOYBOX_SIZES = (2 / 3, .8, 1.05, 1.2)
TOYBOX_SAYS = {"far": ("a photo of a small {}",), "": (PROMPT,), "near": ("a photo of a large {}",)}


@dataclass
class Concept:
    """What is learned: a new word, the word of its class, pictures (n, 3, S, S) in [0, 1]."""
    token: str
    class_word: str
    pictures: torch.Tensor

    @property
    def name(self):
        return f"{self.token} {self.class_word}"


def prompt_of(name):
    """The prompt of a concept, or of the plain class word: "a photo of a cat"."""
    return (STYLE if is_style(name) else PROMPT).format(name)


def is_style(name):
    """Whether a concept is a way of painting, and no thing."""
    return name.split()[-1] == "art"


# ------------------------------------------------------------------------------------------------ Sec. 3.1: what is trained

TRAINED = {"kv": (".attn2.to_k.", ".attn2.to_v."), "crossattn": (".attn2.",), "all": ("",)}


def trainable(unet, what="kv"):
    """{name: parameter} of what is fine-tuned, everything else frozen. kv: W^k and W^v; the other two are for comparison."""
    unet.requires_grad_(False)
    return {name: p.requires_grad_(True) for name, p in unet.named_parameters() if any(part in name for part in TRAINED[what])}


def start_detached(kv):
    """The same keys and values, but no gradient through the start token, which all prompts share. Source: Appendix E."""
    cut = lambda x: torch.cat([x[:, :, :1].detach(), x[:, :, 1:]], dim=2)                               # (B, h, L, d)
    return TextKV({layer: (cut(k), cut(v)) for layer, (k, v) in kv.pairs.items()}, kv.vector)


def start_rows(pipe, n, args):
    """Where the rows of n new words start: list of (D,)."""
    table = tokens.table_of(pipe.text_encoder).detach()
    if args.token_init == "random":
        generator = torch.Generator().manual_seed(args.seed + 1)
        return [(torch.randn(table.shape[1], generator=generator) * table.float().std().cpu()).to(table) for _ in range(n)]
    ids = [pipe.tokenizer.vocab[symbol] for symbol in RARE if symbol in pipe.tokenizer.vocab]
    if args.captions or len(ids) < n:                           # Appendix E: 5 to 10 times in 200,000 captions
        captions = corpus(pipe, args, 200_000 if args.captions else 200)
        ids = tokens.rare(pipe.tokenizer, captions, 5 * len(captions) // 200_000, 10 * len(captions) // 200_000)
    taken = set(pipe.tokenizer.added)                           # of --start-from: those have used the first ones
    if len(ids) < n + len(taken):
        raise ValueError(f"{len(ids)} rare tokens for {n + len(taken)} words; use --token-init random, or other --captions")
    rows = [table[i] for i in ids[len(taken):len(taken) + n]]
    common = table[pipe.tokenizer.encode("a")[0]].norm()        # a row that training never touched is short, and would hardly be heard
    return [row * (common / row.norm()) if common > 2 * row.norm() else row for row in rows]


# ------------------------------------------------------------------------------------------------ Sec. 3.2: pictures and loss

def resized(picture, factor, sizes, generator):
    """The picture (3, S, S) smaller on a grey canvas, as it is, or zoomed in; where it counts (1, h, w); and "far", "", "near".

    factor: pixels per latent. sizes: see SIZES. The mask leaves out the outermost latents of a small picture, which also see the canvas.
    """
    draw = lambda low, high: int(torch.randint(int(low), max(int(high), int(low) + 1), (), generator=generator))
    S, everywhere = picture.shape[-1], torch.ones(1, *(side // factor for side in picture.shape[-2:]))
    smallest, pasted, closer, closest = (size * S for size in sizes)
    if draw(0, 3) == 0:
        r = draw(closer, closest) // 2 * 2
        y, x = draw(0, r - S + 1), draw(0, r - S + 1)
        return scaled(picture, r)[:, y:y + S, x:x + S], everywhere, "near"
    r = draw(smallest, S + 1) // 2 * 2
    if r >= pasted:
        return picture, everywhere, ""
    y, x = draw(0, S - r + 1), draw(0, S - r + 1)
    canvas, mask = torch.full_like(picture, .5), torch.zeros_like(everywhere)
    canvas[:, y:y + r, x:x + r] = scaled(picture, r)
    within = lambda start: slice(-(-start // factor) + 1, (start + r) // factor - 1)
    mask[:, within(y), within(x)] = 1
    return canvas, mask, "far"


def scaled(picture, r):
    return F.interpolate(picture[None], (r, r), mode="bilinear", antialias=True)[0]


def masked_loss(e, eps, mask):
    """Mean of (e - eps)^2 where the mask (B, 1, h, w) is 1, for each picture: (B,). All ones: the mean squared error."""
    return (mask * (e - eps).square()).sum((1, 2, 3)) / (e.shape[1] * mask.sum((1, 2, 3)).clamp(min=1))


def drawn_targets(pipe, concept, n, augment, generator):
    """n pictures of the concept, augmented: latents (n, C, h, w), masks (n, 1, h, w), n prompts."""
    rand = lambda high: int(torch.randint(high, (), generator=generator))
    is_said = all(len(pipe.tokenizer.encode(word)) == 1 for word in "far away very small zoomed in close up".split())
    sizes, says = (SIZES, SAYS) if is_said else (TOYBOX_SIZES, TOYBOX_SAYS)
    what, made = prompt_of(concept.name).removeprefix("a ") if is_said else concept.name, []
    for _ in range(n):
        picture = concept.pictures[rand(len(concept.pictures))]
        whole = (picture, torch.ones(1, *(side // pipe.factor for side in picture.shape[-2:])), "")
        made.append(resized(picture.flip(-1) if rand(2) else picture, pipe.factor, sizes, generator) if augment else whole)
    with torch.no_grad():
        z = pipe.encode(torch.stack([picture for picture, *_ in made]))
    prompts = [says[size][rand(len(says[size]))].format(what) for *_, size in made]
    return z, torch.stack([mask for _, mask, _ in made]).to(z), prompts


@torch.no_grad()
def encoded(pipe, pictures, captions):
    """Latents (n, C, h, w) and states of the captions (n, L, D): the class's, which are frozen and computed once."""
    z = torch.cat([pipe.encode(part) for part in pictures.split(16)])
    return z, torch.cat([pipe.encode_prompts(captions[i:i + 16]).context for i in range(0, len(captions), 16)])


def class_pictures(pipe, class_word, args, is_only=True):
    """Pictures of the class, (n, 3, S, S), and their captions: drawn by toybox, sampled from the model, or from a folder."""
    n, size, prompt = args.class_pictures, pipe.sample_size * pipe.factor, prompt_of(class_word)
    if args.regularization == "generated":                      # Appendix E: 200 pictures, eta 1, guidance 6
        return pipe(prompt, n, args.sampling, 6.0, args.seed + 1000, method="ddim", eta=1.0, batch=16).cpu(), [prompt] * n
    if args.regularization == "toybox":
        try:
            drawn = toybox.of_class(class_word, n, args.seed, size)
        except ValueError as error:
            raise ValueError(f"{error}; use --regularization generated, none or a folder") from error
        return drawn.images, drawn.captions
    own = Path(args.regularization) / class_word
    if not is_only and not own.is_dir():
        raise ValueError(f"--regularization {own.parent} holds no folder {class_word}; with several concepts it needs one for each class word")
    folder = own if own.is_dir() else own.parent
    words = [path.with_suffix(".txt") for path in images.files(folder)]
    captions = [path.read_text(encoding="utf-8").strip() if path.is_file() else prompt for path in words]
    return images.load_folder(folder, size), captions


# ------------------------------------------------------------------------------------------------ training

def learn(pipe, concepts, args):
    """Fine-tunes pipe's UNet and the rows of the new words, in place: one concept, or several jointly. Returns a Delta."""
    generator = torch.Generator().manual_seed(args.seed)
    learned = tokens.add(pipe, [c.token for c in concepts], start_rows(pipe, len(concepts), args))
    words = [] if args.regularization == "none" else [c.class_word for c in concepts]
    classes = [encoded(pipe, *class_pictures(pipe, word, args, is_only=len(set(words)) == 1)) for word in words]
    trained = trainable(pipe.unet.to(memory_format=torch.channels_last), args.train)
    lr, token_lr = rates(pipe, args)
    groups = [{"params": list(trained.values()), "lr": lr}]
    groups += [{"params": [learned.rows], "lr": token_lr}] if args.token_init != "fixed" else []
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    slower = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, 2 - 2 * step / (args.steps * len(concepts))))
    n = max(1, args.batch // len(concepts) // 2)                # of each concept, and as many of its class
    with progress(args.steps * len(concepts), f"learning {', '.join(c.name for c in concepts)}") as bar:
        for step in bar:
            z, mask, prompts = zip(*(drawn_targets(pipe, c, n, not args.no_augmentation, generator) for c in concepts))
            z, mask, text = [*z], [*mask], [pipe.encode_prompts(sum(prompts, [])).context]
            for z_class, text_class in classes:
                i = torch.randint(len(z_class), (n,), generator=generator).to(z_class.device)
                z, mask, text = [*z, z_class[i]], [*mask, torch.ones_like(mask[0])], [*text, text_class[i]]
            loss = denoising_loss(pipe, torch.cat(z), torch.cat(text), torch.cat(mask), generator)
            update(optimizer, loss, step, bar, lower="--lr or --token-lr")
            slower.step()
    args.done = bar.n                                           # fewer than asked for after Ctrl-C
    pipe.unet.requires_grad_(False)
    tokens.freeze(pipe)
    weights = {name: p.detach().clone(memory_format=torch.contiguous_format) for name, p in trained.items()}
    rows = {c.token: learned.of(c.token).detach().cpu().clone() for c in concepts}
    return Delta(weights, rows, {c.token: c.class_word for c in concepts})


def rates(pipe, args):
    """Learning rates of W and of V*: what was asked for; else those for toybox, or for any other model the paper's."""
    W, V = (RATES[args.train], TOKEN_RATE) if is_toybox(pipe) else (PAPER_RATE, PAPER_RATE)
    return args.lr or W, args.token_lr or V


def denoising_loss(pipe, z, c, mask, generator):
    """Mean over the batch of || eps - eps_theta(x_t, c, t) ||^2 where the mask is 1. Source: Sec. 3.1."""
    t = torch.randint(pipe.schedule.T, (len(z),), generator=generator).to(z.device)
    eps = torch.randn(z.shape, generator=generator).to(z.device)
    z_t = pipe.schedule.add_noise(z, eps, t).contiguous(memory_format=torch.channels_last)
    with devices.autocast(pipe.device):
        prediction = pipe.unet(z_t, t, start_detached(pipe.unet.text_kv(c))).float()
    return masked_loss(pipe.schedule.to_eps(prediction, z_t, t), eps, mask).mean()                      # Sec. 3.1


# ------------------------------------------------------------------------------------------------ Sec. 3.2: merging

def merged(W_0, targets, P):
    """One W for all concepts: nearest to W_0 on the captions, and exactly W_n on the words of concept n. All in float64.

        min_W || W C_reg^T - W_0 C_reg^T ||_F   subject to   W C^T = V,     V = [W_1 C_1^T ... W_N C_N^T]

    With a multiplier for each constraint, the derivative of the Lagrangian vanishes where (W - W_0) G = lambda^T C, with
    G = C_reg^T C_reg. So W = W_0 + lambda^T D with D = C G^-1, and the constraint gives lambda^T = (V - W_0 C^T) (D C^T)^-1:

        W = W_0 + (V - W_0 C^T) P,     P = (D C^T)^-1 D

    Args:
        W_0: (o, d). targets: [(W_n, C_n)], (o, d) and (s_n, d) each. P: (s, d), see `projector`; the same for all layers.
    """
    C = torch.cat([C_n for _, C_n in targets]).double()
    V = torch.cat([W_n.double() @ C_n.double().T for W_n, C_n in targets], dim=1)                        # (o, s)
    return W_0.double() + (V - W_0.double() @ C.T) @ P                                                  # Sec. 3.2


def projector(C, C_reg, most=1e13):
    """P of `merged`, (s, d) float64. ValueError where the captions, or the words, do not determine it."""
    C, C_reg = C.double(), C_reg.double()
    if len(C_reg) < C_reg.shape[1]:
        raise ValueError(f"the captions make {len(C_reg)} rows of text, at least {C_reg.shape[1]} are needed, or a change "
                         "could hide where no caption looks; give more captions (--captions, the paper: 1000)")
    G = C_reg.T @ C_reg
    if (condition := float(torch.linalg.cond(G))) > most:
        raise ValueError(f"the captions do not tell all directions of the text apart (condition {condition:.0e}, at most {most:.0e}); "
                         "give more and more varied captions (--captions)")
    D = torch.linalg.solve(G, C.T).T
    if (condition := float(torch.linalg.cond(D @ C.T))) > most:
        raise ValueError(f"the words of these concepts are too alike to be told apart (condition {condition:.0e}); were they learned with "
                         "different --token?")
    return torch.linalg.solve(D @ C.T, D)


@torch.no_grad()
def merge(pipe, learned, captions):
    """Delta of several, learned apart, and numbers about it; puts it, and all the words, into pipe. Source: Sec. 3.2, App. B."""
    names = list(learned[0].weights)
    odd = [name for d in learned for name in d.weights if name not in names or not any(part in name for part in TRAINED["kv"])]
    if odd or any(len(d.weights) != len(names) for d in learned):
        raise ValueError(f"only changes of all keys and values can be merged{f', not {odd[0]}' if odd else ''}; train with --train kv")
    words = Counter(word for d in learned for word in d.rows)
    if not words:
        raise ValueError("none of these has learned a word, and a merge holds nothing but words to their concepts")
    if max(words.values()) > 1:
        raise ValueError(f"two of these have learned the word {words.most_common(1)[0][0]}; train one of them with another --token")
    for d in learned:
        Delta({}, d.rows).apply(pipe)
    text = [target_rows(pipe, d).cpu() for d in learned]                                                # C_n
    C_reg, full = caption_rows(pipe, captions).cpu(), [d.full(pipe.unet) for d in learned]
    began = time.monotonic()
    P, own, weights, errors, drifts = projector(torch.cat(text), C_reg), pipe.unet.state_dict(), {}, [], []
    G = C_reg.double().T @ C_reg.double()                       # || D C_reg^T ||^2 = sum(D G * D), without a product for each caption
    for name in names:
        W_0, targets = own[name].cpu(), [(w[name].cpu(), C_n) for w, C_n in zip(full, text)]
        W = merged(W_0, targets, P)
        errors += [float((W @ C_n.double().T - W_n.double() @ C_n.double().T).norm() / (W_n.double() @ C_n.double().T).norm())
                   for W_n, C_n in targets]
        D, W_0 = W - W_0, W_0.double()
        drifts.append(float((((D @ G) * D).sum() / ((W_0 @ G) * W_0).sum()).sqrt()))
        weights[name] = W.float()
    Delta(weights).apply(pipe)
    together = lambda part: {k: v for d in learned for k, v in getattr(d, part).items()}
    numbers = {"constraint_error": max(errors), "drift_on_captions": max(drifts), "seconds": time.monotonic() - began,
               "rows_of_words": sum(map(len, text)), "rows_of_captions": len(C_reg)}
    return Delta(weights, together("rows"), together("classes")), numbers


def target_rows(pipe, delta):
    """C of what one training has learned, (s, d): each new word and what follows it, up to the end token, in two prompts."""
    rows = []
    for word in delta.rows:
        name = f"{word} {delta.classes.get(word, '')}".strip()
        prompts = [name, prompt_of(name)]
        for ids, c in zip(pipe.tokenizer(prompts).tolist(), pipe.encode_prompts(prompts).context):
            rows.append(c[ids.index(pipe.tokenizer.added[word]):ids.index(pipe.tokenizer.eos) + 1])
    return torch.cat(rows)


def caption_rows(pipe, captions):
    """C_reg: states of the captions' tokens, without start and padding, (s_reg, d)."""
    rows = []
    for i in range(0, len(captions), 64):
        ids, c = pipe.tokenizer(captions[i:i + 64]), pipe.encode_prompts(captions[i:i + 64]).context
        is_end = (ids == pipe.tokenizer.eos).to(c.device)
        counts = (is_end.cumsum(1) - is_end.long() == 0)[:, 1:]                                         # up to the first end token
        rows.append(c[:, 1:][counts])
    return torch.cat(rows)


def corpus(pipe, args, n=1000):
    """Captions of many other things: the first n lines of --captions, or toybox's."""
    if not args.captions and not is_toybox(pipe):
        raise ValueError("--captions FILE is needed for this model: about 1000 captions of any pictures, one per line")
    if not args.captions:
        return toybox_captions(n)
    return read_lines(args.captions, "captions")[:n]


def is_toybox(pipe):
    """Does it read toybox's words, and no others?"""
    return pipe.tokenizer.vocab == Tokenizer.from_pretrained(find("toybox") / "tokenizer").vocab


@lru_cache
def toybox_captions(n):
    return [toybox.scene(5, i)[1] for i in range(n)]


# ------------------------------------------------------------------------------------------------ what is looked at, and measured

@torch.no_grad()
def attention_maps(pipe, prompt, words, seed, sampling, guidance):
    """A picture (3, H, W), and where the words look while it is drawn, (len(words), 3, H, W) grey, each up to its maximum."""
    ids = pipe.tokenizer([prompt])[0].tolist()
    places = [ids.index(pipe.tokenizer.encode(word)[0]) for word in words]
    with recorded(pipe.unet) as maps:
        picture = pipe(prompt, 1, sampling, guidance, seed)
    square = lambda m: rearrange(m[-1:, :, places], "b (y x) w -> b w y x", y=math.isqrt(m.shape[1]))       # -1: with the prompt
    total = sum(F.interpolate(square(m), (pipe.sample_size,) * 2, mode="bilinear") for m in maps.values())
    total = F.interpolate(total, picture.shape[-2:], mode="bilinear")[0]
    return picture[0].cpu(), (total / total.amax((1, 2), keepdim=True))[:, None].repeat(1, 3, 1, 1).cpu()


@torch.no_grad()
def image_alignment(pictures, given):
    """Mean cosine of toybox CLIP's embeddings over all pairs of a picture and a given one. Source: Sec. 4."""
    folder = find("toybox") / "clip"
    clip = CLIP.from_pretrained(folder, "cpu", torch.float32)
    a, b = (clip_embeddings(clip, None, x.cpu()) for x in (pictures, given))
    return float((a @ b.T).mean())


# ------------------------------------------------------------------------------------------------ what to learn, and what was learned

def read(pipe, args):
    """The Deltas in --learned, with the words of --named."""
    learned = [deltas.read(path, pipe.unet) for path in args.learned]
    return [renamed(delta, name) for delta, name in zip(learned, args.named)] if args.named else learned


def use(pipe, args):
    """Puts what is in --learned into pipe, several merged. Returns the Delta, and numbers about the merge."""
    learned = read(pipe, args)
    if len(learned) > 1:
        return merge(pipe, learned, corpus(pipe, args))
    learned[0].apply(pipe)
    return learned[0], {}


def renamed(delta, name):
    """The same with another word, and its class: "<new2> chair". Files of other programs do not say the class."""
    word, _, class_word = name.partition(" ")
    if len(delta.rows) != 1:
        raise ValueError(f"--named {name!r} is for what was learned of one word, and this holds {len(delta.rows)}: {', '.join(delta.rows) or 'none'}")
    return Delta(delta.weights, {word: row for row in delta.rows.values()}, {word: class_word})


def concepts_of(args, size, taken=0):
    """The Concepts of --concept, and of --images, --class-word; words of --token, or <new1>, <new2>, ... after those taken."""
    named = [(CLASS_WORDS.get(name, name), toybox.held_out(name, 5, 0, size).images) for name in args.concept]
    if len(args.images) != len(args.class_word):
        raise ValueError(f"{len(args.images)} --images and {len(args.class_word)} --class-word; give one of each for every concept")
    named += [(word, images.load_folder(folder, size)) for folder, word in zip(args.images, args.class_word)]
    words = args.token or [f"<new{taken + i + 1}>" for i in range(len(named))]
    if len(words) != len(named) or len(set(words)) < len(words):
        raise ValueError(f"{len(words)} --token for {len(named)} concepts; give a different one for each, or none at all")
    return [Concept(token, word, pictures) for token, (word, pictures) in zip(words, named)]


def load(args):
    """The model; fills in --regularization and --device, which depend on it."""
    pipe = minidiff.load(args.model, args.device)
    if hasattr(pipe, "text_encoder_2") or not hasattr(pipe, "text_encoder"):
        raise ValueError(f"{args.model} is a {type(pipe).__name__}, which cannot be customised here; use a Stable Diffusion 1 or 2, or toybox")
    args.device = pipe.device
    if args.verb in (None, "train", "analyze"):
        args.regularization = args.regularization or ("toybox" if is_toybox(pipe) else "generated")
    return pipe


def train(pipe, args):
    """Learns what the options say, on top of --start-from, in pipe. Returns the concepts, the Delta and metrics."""
    began, earlier = time.monotonic(), Delta({})
    if args.start_from:
        earlier = deltas.read(args.start_from, pipe.unet)
        earlier.apply(pipe)
    concepts = concepts_of(args, pipe.sample_size * pipe.factor, len(earlier.rows))
    delta = learn(pipe, concepts, args)
    now = pipe.unet.state_dict()
    kept = {name: now[name].clone() for name in earlier.weights if name not in delta.weights}
    delta = Delta(delta.weights | kept, earlier.rows | delta.rows, earlier.classes | delta.classes)
    return concepts, delta, {"seconds": time.monotonic() - began, "steps": args.done, "device": str(pipe.device)}


# ------------------------------------------------------------------------------------------------ command line

def demonstrate(args):
    """Learns one concept; draws it in new scenes and the plain class, before and after, and where its words look."""
    began = time.monotonic()
    pipe = load(args)
    if pipe.sample_size != 16 or len(args.concept) != 1 or args.images:
        raise ValueError("the demonstration learns one --concept of toybox, with a toybox model; use the verbs train and sample for others")
    concept, = concepts_of(args, 64)
    many = lambda: pipe([s.format(f"a {word}") for s in SCENES], 1, args.sampling, args.guidance, args.seed).cpu()
    plain_class = lambda: pipe([PROMPT.format(concept.class_word)], len(SCENES), args.sampling, args.guidance, args.seed).cpu()
    word = concept.class_word
    before = many(), plain_class()
    _, delta, metrics = train(pipe, args)
    deltas.save(args.out, delta, metrics)
    word = concept.name
    after = many(), plain_class()
    other = "table" if concept.class_word == "chair" else "chair"
    words = [concept.token, concept.class_word, "red", other]
    picture, maps = attention_maps(pipe, f"a {word} next to a red {other}", words, args.seed + 1, args.sampling, args.guidance)
    rows = [concept.pictures, before[0], after[0], before[1], after[1], torch.cat([picture[None], maps])]
    rows = [torch.cat([row, torch.ones(5 - len(row), 3, 64, 64)]) for row in rows]
    labels = ["given", f"a {concept.class_word}, before", f"a {concept.name}", f"plain {concept.class_word}, before", "the same, after",
              "where look: " + ", ".join(words)]
    images.save_figure(args.out / "figure.png", torch.stack(rows), labels, [""] * 5, f"{concept.name}, learned from these")
    read = lambda x: float((toybox.measure(x)["member"] == list(MEMBERS).index(concept.class_word)).double().mean())
    metrics |= {"seconds": time.monotonic() - began, "image_alignment": image_alignment(after[0], concept.pictures),
                "image_alignment_before": image_alignment(before[0], concept.pictures),
                "class_kept": read(after[1]), "class_before": read(before[1])}
    written = ", ".join(path.name for path in deltas.save(args.out, delta, metrics))
    table = [{"": "new scenes: image alignment", "before": metrics["image_alignment_before"], "after": metrics["image_alignment"]},
             {"": f"plain: is a {concept.class_word}", "before": metrics["class_before"], "after": metrics["class_kept"]}]
    print(markdown(table, ["", "before", "after"]) + f"{metrics['steps']} steps, {metrics['seconds']:.0f} s, {delta.nbytes / 1e6:.2f} MB")
    print(f"written to {args.out}: figure.png, {written}, metrics.json")


def train_command(args):
    _, delta, metrics = train(load(args), args)
    deltas.save(args.out, delta, metrics)
    print(f"{metrics['steps']} steps, {metrics['seconds']:.0f} s; written: {args.out / 'delta.safetensors'}, {delta.nbytes / 1e6:.2f} MB")


def in_the_snow(delta):
    """What to draw when nothing is said: "a <new1> cat next to a <new2> chair in the snow"."""
    names = [f"{word} {delta.classes.get(word, '')}".rstrip() for word in delta.rows]
    return " next to ".join(STYLE.format(name) if is_style(name) else f"a {name}" for name in names) + " in the snow"


def sample_command(args):
    prompts = read_prompts(args.prompts) if args.prompts else [args.prompt] if args.prompt else []
    pipe = load(args)
    delta, _ = use(pipe, args)
    if not prompts and not delta.rows:
        raise ValueError("what was learned has no word of its own; say what to draw with --prompt")
    prompts = prompts or [in_the_snow(delta)]
    images.save_samples(args.out, pipe(prompts, args.n, args.sampling, args.guidance, args.seed), prompts)
    print(f"written to {args.out}: samples.safetensors, samples.png, {len(prompts) * args.n} pictures")


def merge_command(args):
    if len(args.learned) < 2:
        raise ValueError("merge needs two or more folders after --learned")
    delta, numbers = use(load(args), args)
    deltas.save(args.out, delta, numbers | {"device": str(args.device)})
    print("  ".join(f"{name} {value:.3g}" for name, value in numbers.items()))
    print(f"written: {args.out / 'delta.safetensors'}")


def export_command(args):
    if len(args.learned) > 1:
        raise ValueError("export takes one folder; merge several first")
    pipe = load(args)
    path, *words = deltas.export(args.out, *read(pipe, args), pipe.unet, args.layout, args.ratio)
    print(f"written: {path}, {path.stat().st_size / 1e6:.2f} MB, and {', '.join(word.name for word in words)}")


def analyze(args):
    from tables import customization_analysis
    customization_analysis.run(args)


def evaluate(args):
    from tables import custom_diffusion as tables           # long, and no part of the method
    tables.run(args)


SCENES = ["{} in the snow", "{} at the beach", "{} in a room", "a watercolor of {}", "{} next to a red chair"]
RATES, TOKEN_RATE, PAPER_RATE = {"kv": 2e-3, "crossattn": 2e-3, "all": 2e-4}, 3e-4, 8e-5       # of W and of V* on toybox; of both, elsewhere


def arguments(argv=None):
    common = argparse.ArgumentParser(add_help=False)
    add = lambda *names, **how: common.add_argument(*names, **how)
    add("--model", default="toybox", help="toybox, a folder in diffusers' layout, or one .safetensors file")
    add("--out", type=Path, default=Path("outputs/custom_diffusion"), help="where results go")
    add("--device", default=None, help="cpu, cuda (default: a GPU if there is one)")
    add("--seed", type=int, default=0, help="of training and of the first picture")
    add("--sampling", type=int, default=25, help="steps of a picture (paper: 200, 50 are enough)")
    add("--guidance", type=float, default=5.0, help="classifier-free guidance (paper: 6)")
    add("--n", type=int, default=4, help="pictures of each prompt")
    add("--captions", help="text file with a caption per line, 1000 for merging, 200,000 for rare tokens (default: toybox's)")
    learning = argparse.ArgumentParser(add_help=False)
    add = lambda *names, **how: learning.add_argument(*names, **how)
    add("--concept", action="append", choices=list(HELD_OUT), help="one of toybox's, which no training picture shows; again for several (default: table)")
    add("--images", action="append", default=[], metavar="DIR", help="folder of your own pictures, 3 to 20; again for several")
    add("--class-word", action="append", default=[], help="what they show, in a word, such as cat, or art for a style: one for each --images")
    add("--token", action="append", help="the new word, one for each concept (default: <new1>, <new2> ...)")
    add("--steps", type=int, default=STEPS, help="optimiser steps for each concept (paper: 250)")
    add("--batch", type=int, default=8, help="pictures in a step, half of them of the class (paper: 8)")
    add("--lr", type=float, help="learning rate of the weights (default: for toybox "
                                 f"{', '.join(f'{k} {v:g}' for k, v in RATES.items())}, else the paper's {PAPER_RATE:g})")
    add("--token-lr", type=float, help=f"learning rate of the new words (default: for toybox {TOKEN_RATE:g}, else the paper's {PAPER_RATE:g})")
    add("--regularization", metavar="WHAT", help="toybox, generated, none, or a folder of pictures of the class, captions in NAME.txt beside them "
        "(default: toybox for toybox, else generated; paper: LAION); with several concepts, a folder in it for each class word")
    add("--class-pictures", type=int, default=200, help="how many to draw or generate (paper: 200)")
    add("--no-augmentation", action="store_true", help="pictures as they are: not mirrored, shrunk or zoomed in")
    add("--token-init", choices=("rare", "random", "fixed"), default="rare", help="where the new row starts; fixed: rare, and stays there (paper: rare)")
    add("--train", choices=list(TRAINED), default="kv", help="which weights (paper: kv)")
    add("--start-from", metavar="DIR", help="go on from what was learned there: sequential training")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, parents=[common, learning])
    verbs = parser.add_subparsers(dest="verb")
    how = dict(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    new = lambda name, text, *parents: verbs.add_parser(name, help=text, description=text, parents=[common, *parents], **how)
    new("train", "learn one or several concepts", learning)
    new("analyze", "rate of change of the layers, compression of the change", learning)
    sample = new("sample", "pictures with what was learned; several are merged")
    merging = new("merge", "several concepts in one file")
    export = new("export", "one concept, or what was merged, as files for other programs")
    for verb in (sample, merging, export):
        verb.add_argument("--learned", nargs="+", required=True, metavar="DIR", help="folders that train wrote, or delta files of any layout")
        verb.add_argument("--named", nargs="+", metavar="NAME", help='new words, and their classes, for each of them: "<new1> cat" "<new2> chair"')
    sample.add_argument("--prompts", help="JSON file with a list of prompts")
    sample.add_argument("--prompt", help="a single one (default: what was learned, in the snow)")
    export.add_argument("--layout", default="lora", choices=list(deltas.EXPORTS), help="kind of file")
    export.add_argument("--ratio", type=float, default=1.0, help="share of the singular values to keep (paper: 0.6 is 5 times smaller)")
    table = new("eval", "the paper's tables, on toybox")
    table.add_argument("--table", default="all", help="all, or one of main, pairs, ablation, class")
    table.add_argument("--methods", nargs="+", metavar="ROW", help="only these rows of it, by their names")
    table.add_argument("--repeats", type=int, default=3, help="training seeds")
    table.add_argument("--pictures", type=int, default=4, help="pictures of each prompt")
    args = command.parse(parser, argv)
    check(parser, args)
    return parser, args


def check(parser, args):
    """Refuse what cannot work, before anything is loaded, and fill in what depends on other options."""
    for name in ("steps", "batch", "sampling", "n", "pictures", "repeats", "class_pictures"):
        if getattr(args, name, 1) < 1:
            parser.error(f"--{name.replace('_', '-')} is {getattr(args, name)}, expected at least 1")
    if getattr(args, "named", None) and len(args.named) != len(args.learned):
        parser.error(f"{len(args.named)} --named for {len(args.learned)} --learned; give one for each")
    if not 0 < getattr(args, "ratio", 1) <= 1:
        parser.error(f"--ratio is {args.ratio}, expected above 0 and at most 1")
    if hasattr(args, "lr"):
        args.concept = args.concept or ([] if args.images else ["table"])
        if any(rate is not None and rate <= 0 for rate in (args.lr, args.token_lr)):
            parser.error("--lr and --token-lr must be above 0")
        what = args.regularization
        if what not in (None, "toybox", "generated", "none") and not Path(what).is_dir():
            parser.error(f"--regularization {what}: expected toybox, generated, none, or a folder of pictures")


def main(argv=None):
    parser, args = arguments(argv)
    verbs = {None: demonstrate, "train": train_command, "sample": sample_command, "merge": merge_command,
             "export": export_command, "analyze": analyze, "eval": evaluate}
    command.run(parser.prog, verbs[args.verb], args)


if __name__ == "__main__":
    main()
