"""CLIP. Radford, Kim, Hallacy, Ramesh, Goh, Agarwal, Sastry, Askell, Mishkin, Clark, Krueger, Sutskever, arXiv:2103.00020v1.

Two towers, one for pictures and one for text, learn a common embedding: in every batch each picture must find its own
caption among all captions, and each caption its own picture. A caption then names what no label was ever given for.

    paper (Fig. 3)      code                meaning                                          shape
    ------------------  ------------------  -----------------------------------------------  ----------------
    I                   I                   pictures, normalised as for the public CLIP      (B, 3, 64, 64)
    T                   T                   the ids of one caption each                      (B, L)
    I_e, T_e            I_e, T_e            embeddings; the loss gives them length 1         (B, E), E = 128
    t                   clip.logit_scale    temperature: similarities are scaled by exp(t)   ()
    logits              logits              scaled similarities, row: picture, column: text  (B, B)
    loss                contrastive_loss    both directions, averaged                        ()

Differs from the paper
  * Captions collide in a tiny world. Two pictures that say the same, or one picture drawn twice, are no negatives of each
    other (`alike`); the paper's batch of 32,768 has them too, but few.
  * Random captions differ in many words, and the easiest one gives the pair away: a cat is told from a red chair by its colour.
    So a share of each batch (--hard) comes in handfuls of one kind: 16 red pets, 16 people with brown hair. --hard 0 is the paper.
  * One caption in ten says "a pet" where it could say "a cat", and within a handful of pets that tells nothing. So among the other
    pictures of a batch a share of the captions (--categories) is reworded to say the category. --categories 0 is the paper.
  * Several processes: each contrasts its own batch and gradients are averaged. The paper gathers the embeddings of all.
  * The paper trains ResNets and vision transformers. Here it is a ResNet (minidiff/resnet.py): it learnt to tell members of a
    category apart from far fewer pairs than a vision transformer with 4 layers of 160 and patches of 8 (weights/README.md).
  * Pictures are blurred and noised a little, since it must judge pictures that a model has sampled (paper: random crops). Weight
    decay .01 on everything (paper: 0.2, not on gains and biases); the learning rate is flat, then falls linearly (paper: cosine);
    bfloat16; a running average of the weights is kept.
  * --kinds: more objects than the world has, since they are what can be told apart.

Run     python papers/clip.py                which caption belongs to which picture, from the shipped weights
        python papers/clip.py train          trains both towers and the temperature        (recipe and time: weights/README.md)
        python papers/clip.py eval           zero-shot accuracy and retrieval on fresh pictures; --model for other weights
        torchrun --nproc_per_node 8 papers/clip.py train       the same on several GPUs
"""
import argparse
import math
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat

from minidiff import command, devices
from minidiff.checkpoints import find, save_folder, write_atomically, write_json
from minidiff.clip import CLIP
from minidiff.images import clip_pixels, save_figure
from minidiff.tokenizer import Tokenizer
from minidiff.toybox.captions import SPOKEN, by_category
from minidiff.toybox.meter import roughen
from minidiff.toybox.scenes import CATEGORIES, COLORS, MEMBERS, STYLES
from minidiff.toybox.store import kind_shares, prepare
from minidiff.toybox.world import KIND_NAMES, sample
from minidiff.training import Run, count, main_process_first

TEXT_CONFIG = dict(hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4, max_position_embeddings=32,
                   hidden_act="gelu")                           # as later public CLIPs; the paper's approximation takes longer here
VISION_CONFIG = dict(model_type="clip_resnet_model", layers=[2, 2, 2, 2], width=16, image_size=64)
PROJECTION = 128


# ------------------------------------------------------------------------------------------------ Sec. 2.3: the loss

def contrastive_loss(I_e, T_e, t, same):
    """How hard it is to find the caption of each picture, and the picture of each caption, within the batch.

    Args:
        I_e, T_e: embeddings of B pictures and of their captions, (B, E) each, of any length.
        t: logarithm of the factor that scales similarities.
        same: (B, B) bool, pairs that are not contrasted although they are two; the diagonal is always contrasted.

    Source: Fig. 3.
    """
    I_e, T_e = F.normalize(I_e, dim=1), F.normalize(T_e, dim=1)
    labels = torch.arange(len(I_e), device=I_e.device)
    logits = I_e @ T_e.T * t.exp()                                                                        # Fig. 3
    logits = logits.masked_fill(same & (labels[:, None] != labels), -math.inf)
    loss_i = F.cross_entropy(logits, labels)
    loss_t = F.cross_entropy(logits.T, labels)
    return (loss_i + loss_t) / 2                                                                          # Fig. 3


def alike(T, index):
    """(B, B) bool: pairs with the same caption T (B, L) or the same picture index (B,)."""
    return (T[:, None] == T).all(dim=-1) | (index[:, None] == index)


# ------------------------------------------------------------------------------------------------ Sec. 2.2: pictures and captions

def tokenized(store, tokenizer=None, reworded=str):
    """The tokenizer, if none is given one of these captions, and the ids of every caption (n, wordings, L)."""
    captions = [reworded(c) for words in store.captions for c in words]
    tokenizer = tokenizer or Tokenizer.train(captions, length=TEXT_CONFIG["max_position_embeddings"])
    return tokenizer, rearrange(tokenizer(captions), "(n w) l -> n w l", n=len(store))


def groups(store):
    """(n,) int64, equal for pictures of one group: objects and pairs by category and colour, people by hair, the rest by kind."""
    truth = store.attributes()
    category = torch.tensor([list(CATEGORIES).index(c) for c in MEMBERS.values()])[truth["member"].clamp(min=0)]
    of_a_person = torch.where(truth["kind"] == KIND_NAMES.index("portrait"), truth["hair"], -1)
    within = torch.where(truth["member"] >= 0, category * (len(COLORS) + 1) + truth["color"] + 1, of_a_person)     # absent is -1
    return torch.stack([truth["kind"], within], dim=1).unique(dim=0, return_inverse=True)[1]


def draw_batch(group, batch, hard, generator, of_a_group=16):
    """(B,) indices of pictures; a share `hard` of them comes in handfuls of one group each.

    The first picture of a handful chooses its group, so that all pictures remain equally likely.
    """
    draw = lambda high, n: torch.randint(high, (n,), generator=generator, device=group.device)
    index = draw(len(group), batch)
    for start in range(0, round(hard * batch), of_a_group):
        handful = index[start:min(start + of_a_group, round(hard * batch))]
        members = (group == group[handful[0]]).nonzero()[:, 0]
        handful[1:] = members[draw(len(members), len(handful) - 1)]
    return index


def trimmed(ids, end):
    """ids (B, L) without the columns in which every caption has ended. Exact: what comes later is not seen by a causal tower."""
    return ids[:, :int((ids == end).int().argmax(dim=1).max()) + 1]


# ------------------------------------------------------------------------------------------------ Sec. 2.5: training

def train(args):
    """Trains on a store of pictures drawn ahead; saves CLIP, its tokenizer and metrics.json to args.out/clip."""
    for name in ("lr", "steps", "minutes"):                     # before anything is drawn
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name} is {value:g}, expected a number above 0")
    clip, tokenizer = load(args.init, args.device) if args.init else (None, None)
    with main_process_first():
        store = prepare(args.out / ("clip_store" if args.kinds else "store"), args.pictures, args.seed, kinds=args.kinds)
    tokenizer, ids = tokenized(store, tokenizer)
    _, broad = tokenized(store, tokenizer, by_category)
    ids, broad, group = ids.to(args.device), broad.to(args.device), groups(store).to(args.device)
    torch.manual_seed(args.seed)
    clip = (clip or make(tokenizer).to(args.device)).requires_grad_(True).train()
    run = Run(args.out / "clip", {"clip": clip}, lr=args.lr, steps=args.steps, minutes=args.minutes, batch=args.batch, ema=0.998,
              seed=args.seed, fresh=args.fresh, name=f"clip {count(clip):.1f}M")
    for step, generator in run:
        clip.logit_scale.data.clamp_(max=math.log(100))                                                   # Sec. 2.5
        index = draw_batch(group, run.batch, args.hard, generator)
        I = roughen((store.images(index.cpu()).to(run.device) + 1) / 2, generator)
        I = clip_pixels(I, size=VISION_CONFIG["image_size"])
        wording = torch.randint(ids.shape[1], index.shape, generator=generator, device=run.device)
        is_broad = torch.rand(index.shape, generator=generator, device=run.device) < args.categories
        is_broad[:round(args.hard * run.batch)] = False                                                   # not in a handful
        T = torch.where(is_broad[:, None], broad[index, wording], ids[index, wording])
        with devices.autocast(run.device):
            I_e, T_e = clip.encode_image(I), clip.encode_text(trimmed(T, tokenizer.eos))
        loss = contrastive_loss(I_e.float(), T_e.float(), clip.logit_scale, alike(T, index))              # Fig. 3
        run.update(loss, scale=clip.logit_scale.exp())
    if run.rank == 0:
        export(run, tokenizer, args)


def make(tokenizer):
    """A CLIP at its start values for the texts of `tokenizer`."""
    text = dict(TEXT_CONFIG, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos, eos_token_id=tokenizer.eos)
    return CLIP(dict(projection_dim=PROJECTION, text_config=text, vision_config=VISION_CONFIG)).init_weights()


def export(run, tokenizer, args):
    """The averaged weights in the layout of the public CLIP, with the tokenizer beside them, and what they score."""
    clip, folder = run.averaged("clip").eval(), args.out / "clip"
    save_folder(clip, clip.config, folder, "model.safetensors")
    tokenizer.save(folder)
    table = score_table(clip, tokenizer, args.renders)
    write_json(folder / "metrics.json", {**{k: row["mean"] for k, row in table.items()}, "loss": run.losses["loss"],
                                         "seconds": run.seconds, "device": str(run.device), "steps": run.step})
    print(f"{as_markdown(table)}\nweights, tokenizer and metrics.json: {folder}")


# ------------------------------------------------------------------------------------------------ Sec. 3.1: zero-shot

CHANCE = {"member_in_category": len(CATEGORIES) / len(MEMBERS), "member": 1 / len(MEMBERS), "category": 1 / len(SPOKEN), "color": 1 / len(COLORS),
          "glasses_auc": 0.5, "age_r": 0.0, "text_of_256": 1 / 256, "image_of_256": 1 / 256}


def zero_shot(I_e, T_e, t):
    """Probability of each of m texts for each of n pictures, (n, m). Source: Sec. 3.1.2."""
    return (I_e @ T_e.T * t.exp()).softmax(dim=1)


@torch.no_grad()
def embed(encode, inputs, device):
    """What encode makes of inputs (n, ...), at length 1: (n, E), on the CPU."""
    return torch.cat([F.normalize(encode(chunk.to(device)), dim=1).cpu() for chunk in inputs.split(256)])


def encoders(clip, tokenizer):
    """Two functions: pictures (n, 3, H, W) in [0, 1] -> (n, E), and n texts -> (n, E)."""
    size, device = clip.config["vision_config"]["image_size"], clip.logit_scale.device
    return (lambda images: embed(clip.encode_image, clip_pixels(images, size), device),
            lambda texts: embed(clip.encode_text, tokenizer(texts), device))


def a(words):
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def distinct(batch, n):
    """Indices of the first n pictures of a batch whose captions differ."""
    return [i for i, caption in enumerate(batch.captions) if caption not in batch.captions[:i]][:n]


def share(is_right):
    return float(is_right.double().mean())


def naming(I_e, truth, texts):
    """Accuracy of the best "a {member}", of all and of its category only, of the best "a {category}", and "a {color} {member}" of all colours.

    Colours are not asked of sketches, which are grey.
    """
    member, category = truth["member"], torch.tensor([list(CATEGORIES).index(c) for c in MEMBERS.values()])
    similarity = I_e @ texts([a(m) for m in MEMBERS]).T                                                   # (n, members)
    is_rival = category == category[member][:, None]
    broad, has = I_e @ texts([a(c) for c in SPOKEN]).T, category[member] < len(SPOKEN)                    # "thing" is the last one
    painted = rearrange(texts([a(f"{c} {m}") for m in MEMBERS for c in COLORS]), "(m c) e -> m c e", c=len(COLORS))
    by_color, shows = einsum(I_e, painted[member], "n e, n c e -> n c"), truth["style"] != STYLES.index("sketch")
    return {"member_in_category": share(similarity.masked_fill(~is_rival, -math.inf).argmax(dim=1) == member),
            "member": share(similarity.argmax(dim=1) == member), "category": share((broad.argmax(dim=1) == category[member])[has]),
            "color": share((by_color.argmax(dim=1) == truth["color"])[shows])}


def faces(I_e, truth, texts):
    """Two opposite prompts as a ruler: area under the curve for glasses, correlation with the true age."""
    glasses, none, old, young = texts(["a person with glasses", "a person without glasses", "an old person", "a young person"])
    score, has = I_e @ (glasses - none), truth["glasses"] == 1
    return {"glasses_auc": share(score[has][:, None] > score[~has]),
            "age_r": float(torch.corrcoef(torch.stack([I_e @ (old - young), truth["age"]]))[0, 1])}


def retrieval(I_e, T_e):
    """How often the nearest caption of a picture is its own, and the other way round."""
    similarity, own = I_e @ T_e.T, torch.arange(len(I_e))
    return {"text_of_256": share(similarity.argmax(dim=1) == own), "image_of_256": share(similarity.argmax(dim=0) == own)}


def scores(clip, tokenizer, seed, n):
    """Every score on fresh pictures of `seed`: n objects, n portraits (glasses tell nothing about age), 256 of any kind."""
    pictures, texts = encoders(clip, tokenizer)
    objects, people, mixed = (sample(k, seed, kind, correlated=False) for k, kind in ((n, "object"), (n, "portrait"), (400, None)))
    index = distinct(mixed, 256)
    return {**naming(pictures(objects.images), objects.attributes, texts), **faces(pictures(people.images), people.attributes, texts),
            **retrieval(pictures(mixed.images[index]), texts([mixed.captions[i] for i in index]))}


def score_table(clip, tokenizer, n, first=1001):
    """{score: {"mean", "spread", "chance"}}; spread is the standard deviation over three seeds, of which `first` is the first."""
    rows = [scores(clip, tokenizer, seed, n) for seed in range(first, first + 3)]
    values = {k: torch.tensor([row[k] for row in rows], dtype=torch.float64) for k in CHANCE}
    return {k: {"mean": float(v.mean()), "spread": float(v.std()), "chance": CHANCE[k]} for k, v in values.items()}


def as_markdown(table):
    lines = [f"| {k:18s} | {r['mean']:5.3f} | {r['spread']:6.3f} | {r['chance']:6.3f} |" for k, r in table.items()]
    return "\n".join(["| score              | mean  | spread | chance |", "|--------------------|-------|--------|--------|", *lines])


# ------------------------------------------------------------------------------------------------ command line

def load(model, device):
    """A trained CLIP and its tokenizer: of a model, or of a folder that is a CLIP."""
    folder = find(model)
    folder = folder / "clip" if (folder / "clip").is_dir() or model == "toybox" else folder
    return CLIP.from_pretrained(folder, device, torch.float32), Tokenizer.from_pretrained(folder)


def demo(args, n=6):
    """A few fresh pictures against all of their captions: figure.png, metrics.json and a table on the screen."""
    start, (clip, tokenizer) = time.monotonic(), load(args.model, args.device)
    batch = sample(3 * n, args.seed)
    index = distinct(batch, n)
    images, captions = batch.images[index], [batch.captions[i] for i in index]
    pictures, texts = encoders(clip, tokenizer)
    p = zero_shot(pictures(images), texts(captions), clip.logit_scale.cpu())                              # (n, n)
    blue = 1 - rearrange(torch.tensor([0.9, 0.6, 0.1]), "c -> c 1 1") * repeat(p, "n m -> n m 1 h w", h=64, w=64)
    save_figure(args.out / "figure.png", torch.cat([images[:, None], blue], dim=1), column_labels=["picture", *captions],
                title="The darker, the likelier the caption for the picture on its left")
    right = p.argmax(dim=1) == torch.arange(len(p))
    for row, own in zip(p, captions):
        best = captions[row.argmax()]
        print(f"{row.max():4.0%}  {best}" + ("" if best == own else f"      (its own: {own})"))
    write_json(args.out / "metrics.json", {"right": share(right), "p_own": float(p.diagonal().mean()),
                                           "seconds": time.monotonic() - start, "device": str(args.device), "steps": 0})
    print(f"{int(right.sum())} of {len(p)} pictures find their caption; figure.png and metrics.json: {args.out}")


def evaluate(args):
    """Zero-shot accuracy and retrieval over three seeds, not those that `train` prints: table.md, table.json and on the screen."""
    table = score_table(*load(args.model, args.device), args.renders, args.seed)
    write_json(args.out / "table.json", table)
    write_atomically(args.out / "table.md", lambda p: p.write_text(as_markdown(table) + "\n", encoding="utf-8"))
    print(f"{as_markdown(table)}\ntable.md and table.json: {args.out}")


VERBS = {"demo": demo, "train": train, "eval": evaluate}
LIMITS = {"hard": (0, 1), "categories": (0, 1), "batch": (2, math.inf), "pictures": (1, math.inf), "seed": (0, math.inf), "renders": (20, math.inf)}


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb")
    add = lambda name, help: verbs.add_parser(name, help=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    demo, train, test = add("demo", "the demonstration; also without a verb"), add("train", "train"), add("eval", "the table of scores")
    train.add_argument("--out", type=Path, default=Path("outputs/toybox"), help="where pictures, weights and checkpoints go")
    train.add_argument("--minutes", type=float, default=None, help="stop after this long (whichever of minutes and steps comes first)")
    train.add_argument("--steps", type=int, default=None, help="stop after this many optimiser steps")
    train.add_argument("--batch", type=int, default=128, help="pictures per step and process (paper: 32,768 in all)")
    train.add_argument("--lr", type=float, default=1e-3, help="peak learning rate (paper: 5e-4 for its ViT-B/32)")
    train.add_argument("--hard", type=float, default=0.75, help="share of a batch that comes in handfuls of one kind (paper: 0)")
    train.add_argument("--categories", type=float, default=0.5, help="share of the other captions that say the category, not the member (paper: 0)")
    train.add_argument("--pictures", type=int, default=100_000, help="pictures drawn ahead")
    train.add_argument("--kinds", type=kind_shares, default=None, metavar="KIND=SHARE,...",
                       help="how often each kind of picture is drawn, such as portrait=.3,object=.7 (default: as the world has them)")
    train.add_argument("--seed", type=int, default=1, help="of the pictures and of all randomness")
    train.add_argument("--init", default=None, help="begin with the weights and words of this model, toybox or a folder, not with new ones")
    train.add_argument("--fresh", action="store_true", help="start again although there is a checkpoint")
    for verb in (demo, test):
        verb.add_argument("--model", default="toybox", help="toybox, a folder with clip/ in it, or a folder in the layout of the public CLIP")
        verb.add_argument("--out", type=Path, default=Path("outputs/clip"), help="where the results go")
    demo.add_argument("--seed", type=int, default=2, help="another number, other pictures")
    test.add_argument("--seed", type=int, default=2001, help="the first of three, of pictures")
    for verb in (train, test):
        verb.add_argument("--renders", type=int, default=500, help="fresh objects and fresh portraits for each seed of the scores")
    for verb in (demo, train, test):
        verb.add_argument("--device", help="cpu, cuda, cuda:1; by default a GPU if there is one")
    argv = sys.argv[1:] if argv is None else list(argv)
    return parser.parse_args(argv if argv and argv[0] in (*VERBS, "-h", "--help") else ["demo", *argv])


def main(argv=None):
    args = arguments(argv)
    if args.verb == "train" and args.steps is None and args.minutes is None:
        args.minutes = 60.0
    command.run("clip.py", checked, args)


def checked(args):
    command.within(args, LIMITS)
    args.device = devices.pick(args.device)
    VERBS[args.verb](args)


if __name__ == "__main__":
    main()
