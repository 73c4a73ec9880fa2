"""A step of Custom Diffusion on the architecture of Stable Diffusion 1.5, random weights: ours against diffusers' own classes.

    python tests/parity/custom_diffusion_step.py [--side 64] [--threads 2] [--steps 3] [--rounds 2]
    python tests/parity/custom_diffusion_step.py --which merge                  two concepts merged there: constraint and time

The peer's step is what diffusers' example does, written with its attention processors: the whole table of the text encoder is a
parameter whose other rows' gradients are zeroed, all captions go through the text encoder, gradients are clipped. One picture of the
concept and one of its class in a step, as latents. Each side runs in processes of its own, in turns; printed are the median seconds
of a step, by the clock and of the processor (which say the same on an idle machine), and the largest memory of a process. Not a
test: it takes minutes and some gigabytes.
"""
import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "papers"))
SD15 = dict(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
TEXT = dict(vocab_size=49409, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            max_position_embeddings=77, projection_dim=768, hidden_act="quick_gelu", bos_token_id=49406, eos_token_id=49407)
NEW = 49408                                                       # the new word's row


def inputs(side):
    g = torch.Generator().manual_seed(0)
    ids = torch.full((2, 77), 49407)
    ids[:, 0], ids[:, 1:5], ids[0, 5] = 49406, torch.randint(400, 40000, (2, 4), generator=g), NEW
    mask = torch.ones(2, 1, side, side)
    mask[0, :, : side // 4] = 0
    return torch.randn(2, 4, side, side, generator=g), ids, mask, g


def ours(side):
    """A function that makes one step."""
    import custom_diffusion as paper

    from minidiff import UNet, Schedule
    from minidiff.clip import CLIPText
    from minidiff.tokens import LearnedToken
    text, unet = CLIPText(TEXT).init_weights().requires_grad_(False), UNet.from_config({**UNet_config(), **SD15}).requires_grad_(False)
    pipe = SimpleNamespace(unet=unet.to(memory_format=torch.channels_last), schedule=Schedule(), device=torch.device("cpu"))
    embeddings = text.text_model.embeddings
    learned = embeddings.token_embedding = LearnedToken(embeddings.token_embedding.weight, {"<new1>": range(NEW, NEW + 1)})
    optimizer = torch.optim.AdamW([*paper.trainable(unet).values(), learned.rows], 1e-5, weight_decay=0.0)
    z, ids, mask, g = inputs(side)
    with torch.no_grad():
        of_class = text(ids[1:])[0]                               # once: no caption of the class has the new word

    def step():
        paper.update(optimizer, paper.denoising_loss(pipe, z, torch.cat([text(ids[:1])[0], of_class]), mask, g), 0, SimpleNamespace(set_postfix=lambda **k: 0))
    return step


def UNet_config():
    from diffusers import UNet2DConditionModel
    with torch.device("meta"):
        return dict(UNet2DConditionModel(**SD15).config)


def peer(side):
    from diffusers import DDPMScheduler, UNet2DConditionModel
    from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0
    from transformers import CLIPTextConfig, CLIPTextModel
    unet, text = UNet2DConditionModel(**SD15).requires_grad_(False), CLIPTextModel(CLIPTextConfig(**TEXT)).requires_grad_(False)
    table = text.get_input_embeddings().weight.requires_grad_(True)
    weights, processors = unet.state_dict(), {}
    for name in unet.attn_processors:
        is_cross, layer = name.endswith("attn2.processor"), name.removesuffix(".processor")
        made = CustomDiffusionAttnProcessor2_0(train_kv=is_cross, train_q_out=False, hidden_size=weights[f"{layer}.to_k.weight"].shape[0],
                                               cross_attention_dim=768 if is_cross else None)
        if is_cross:
            made.load_state_dict({f"{part}_custom_diffusion.weight": weights[f"{layer}.{part}.weight"] for part in ("to_k", "to_v")})
        processors[name] = made
    unet.set_attn_processor(processors)
    trained = [table] + [p for processor in processors.values() for p in processor.parameters()]
    optimizer = torch.optim.AdamW(trained, 1e-5, weight_decay=1e-2)
    schedule, (z, ids, mask, g) = DDPMScheduler(beta_schedule="scaled_linear"), inputs(side)

    def step():
        eps, t = torch.randn(z.shape, generator=g), torch.randint(1000, (2,), generator=g)
        context = text(ids)[0]
        e, e_prior = unet(schedule.add_noise(z, eps, t), t, context).sample.chunk(2)
        error = (e - eps[:1]).square() * mask[:1]
        loss = (error.sum((1, 2, 3)) / mask[:1].sum((1, 2, 3))).mean() + torch.nn.functional.mse_loss(e_prior, eps[1:])
        loss.backward()
        keep = table.grad[NEW].clone()
        table.grad.zero_()
        table.grad[NEW] = keep
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return step


def measure(args):
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    step, times = {"ours": ours, "peer": peer}[args.which](args.side), []
    for _ in range(args.steps + 1):                               # the first one warms up
        began = clocks()
        step()
        times.append([b - a for a, b in zip(began, clocks())])
    peak = int(re.search(r"VmHWM:\s*(\d+) kB", open("/proc/self/status").read())[1])
    print(json.dumps({"seconds": times[1:], "gigabytes": peak / 1e6}))


def clocks():
    return time.perf_counter(), time.process_time()


def merging(args, rows=10_000):
    """Two concepts with random weights and random states of words and captions: the constraint of the merge, and its seconds."""
    import custom_diffusion as paper

    from minidiff import UNet
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    with torch.device("meta"):
        shapes = {name: w.shape for name, w in paper.trainable(UNet.from_config({**UNet_config(), **SD15})).items()}
    base = {name: torch.randn(shape) * shape[1] ** -.5 for name, shape in shapes.items()}
    full = [{name: w + .02 * torch.randn(w.shape) * w.std() for name, w in base.items()} for _ in range(2)]
    text, C_reg = [torch.randn(7, 768) for _ in full], torch.randn(rows, 768)
    began = clocks()
    P = paper.projector(torch.cat(text), C_reg)
    new = {name: paper.merged(W_0, [(w[name], C_n) for w, C_n in zip(full, text)], P) for name, W_0 in base.items()}
    wall, processor = (b - a for a, b in zip(began, clocks()))
    want = lambda w, name, C_n: w[name].double() @ C_n.double().T
    error = max(float((W @ C_n.double().T - want(w, name, C_n)).norm() / want(w, name, C_n).norm())
                for name, W in new.items() for w, C_n in zip(full, text))
    megabytes = sum(w.numel() for w in base.values()) * 4 / 1e6
    print(f"{len(new)} matrices, {megabytes:.1f} MB in float32: constraint error {error:.1e}, {wall:.2f} s, {processor:.2f} s of the processor")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=64, help="of the latents")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--which", choices=("ours", "peer", "merge"), help="measure this alone, in this process")
    args = parser.parse_args()
    if args.which:
        return merging(args) if args.which == "merge" else measure(args)
    found = {"ours": [], "peer": []}
    for _ in range(args.rounds):
        for which, runs in found.items():
            more = [f"--{name}={getattr(args, name)}" for name in ("side", "threads", "steps")]
            out = subprocess.run([sys.executable, __file__, "--which", which, *more], check=True, capture_output=True, text=True)
            runs.append(json.loads(out.stdout.splitlines()[-1]))
    for which, runs in found.items():
        clock, processor = (statistics.median(s[i] for run in runs for s in run["seconds"]) for i in (0, 1))
        print(f"{which}: {clock:.2f} s a step, {processor:.2f} s of the processor, {max(run['gigabytes'] for run in runs):.2f} GB")


if __name__ == "__main__":
    main()
