"""What every training loop needs and no paper is about: devices, progress, schedules, averages, checkpoints, resuming.

A loop reads

    run = Run(folder, {"unet": unet}, lr=1e-3, steps=10_000, batch=64)
    for step, generator in run:
        loss = ...                  # the paper's equations
        run.update(loss)

and may be killed at any time: started again with the same folder, it goes on from the last checkpoint and, because all
randomness of step k comes from the generator of step k, arrives where an uninterrupted run would have.

What is learned in a minute need not be resumed: there `progress` and `update` are enough.

    with progress(steps, "learning a word") as bar:
        for step in bar:
            loss = ...
            update(optimizer, loss, step, bar)
    bar.n                           # steps made: Ctrl-C ends the loop early, and what was learned is kept
"""
import os
import pickle
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm, trange

from .checkpoints import CheckpointError, write_pickle


class Run:
    """One resumable training run over any number of processes.

    Args:
        folder: where `checkpoint.pt` lives.
        modules: {name: module}; the parameters that require a gradient are trained.
        lr, warmup, weight_decay, clip: AdamW with linear warm-up (steps), flat, then linear decay over the last half.
        steps, minutes: the run ends at whichever comes first; None is no limit.
        batch: pictures per step and process, for the progress bar.
        ema: decay of the running average of the weights.
        seed: of all randomness.

    Iterating gives (step, generator): the generator of a step depends on seed, step and process only.
    """

    def __init__(self, folder, modules, lr, steps=None, minutes=None, batch=1, ema=0.999, warmup=200, weight_decay=0.01,
                 clip=1.0, seed=0, save_every=300.0, fresh=False, name="training"):
        if min((end for end in (steps, minutes) if end is not None), default=0) <= 0:
            raise ValueError(f"a run needs an end: steps or minutes above 0, got steps {steps} and minutes {minutes}")
        self.path, self.modules, self.lr, self.warmup, self.clip = Path(folder) / "checkpoint.pt", modules, lr, warmup, clip
        self.steps, self.minutes, self.batch, self.decay, self.seed = steps, minutes, batch, ema, seed
        self.save_every, self.name, self.step, self.seconds, self.losses = save_every, name, 0, 0.0, {}
        self.interrupted = self.stopped = False                         # asked here to stop; agreed by all processes
        self.rank, self.world = _join_processes()
        self.parameters = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.optimizer = torch.optim.AdamW(self.parameters, lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
        self.average = {n: {k: v.detach().clone() for k, v in m.state_dict().items()} for n, m in modules.items()}
        if fresh:
            self.path.unlink(missing_ok=True)
        if self.path.is_file():
            self._resume()

    # ------------------------------------------------------------------------------------------------ the loop

    @property
    def progress(self):
        """How much of the run is done, 0 to 1, by steps or by the clock."""
        return max(self.step / self.steps if self.steps else 0, self.seconds / 60 / self.minutes if self.minutes else 0)

    def __iter__(self):
        self._saved = time.monotonic()
        self._started = self._saved - self.seconds
        restore = self._catch_interrupt()
        bar = tqdm(desc=self.name, unit=" samples", disable=self.rank > 0, mininterval=2)
        try:
            while self.progress < 1 and not self.stopped:
                generator = torch.Generator(self.device).manual_seed((self.seed * 1_000_003 + self.step) * 1009 + self.rank)
                yield self.step, generator
                bar.update(self.batch * self.world)
                if self.step % 50 == 0:
                    bar.set_postfix_str(self.report(), refresh=False)
            if self.stopped:
                if self.rank == 0:
                    print(f"\nstopped at step {self.step}; the same command goes on from here")
                raise SystemExit(130)
        finally:
            restore()
            bar.close()
            if self.step:
                self.save()

    def update(self, loss, **shown):
        """One optimiser step on `loss`; `shown` are further numbers for the progress bar.

        loss: a scalar; or several, best of a generator, one at a time in memory: a step on their mean (gradient accumulation).
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward([loss] if isinstance(loss, torch.Tensor) else loss)
        self._share_gradients()
        self._require_finite("gradient", torch.nn.utils.clip_grad_norm_(self.parameters, self.clip))
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * min(1, (self.step + 1) / self.warmup, max(0.02, 2 - 2 * self.progress))
        self.optimizer.step()
        self._average_weights()
        for k, v in {"loss": loss, **shown}.items():
            v = float(torch.as_tensor(v).detach())
            self.losses[k] = 0.98 * self.losses.get(k, v) + 0.02 * v
        self.step += 1
        self.seconds = time.monotonic() - self._started
        self._agree()
        if self.rank == 0 and time.monotonic() - self._saved > self.save_every:
            self.save()
            self._saved = time.monotonic()

    def _backward(self, losses):
        """The gradient of the mean of the losses; returns that mean."""
        seen = []
        for loss in losses:
            self._require_finite("loss", loss)
            loss.backward()
            seen.append(loss.detach())
        if len(seen) > 1:
            torch._foreach_div_([p.grad for p in self.parameters if p.grad is not None], len(seen))
        return torch.stack(seen).mean()

    def _require_finite(self, what, value):
        """Stop before a step that would spoil the weights, so that the checkpoint written on the way out is a good one."""
        if not torch.isfinite(value):
            where = f"; the weights before it are in {self.path}" if self.step else ""
            raise SystemExit(f"the {what} is {value.item()} at step {self.step}{where}")

    def _catch_interrupt(self):
        """Ctrl-C or a polite kill ends the run after the step under way; a second one ends it at once.

        Returns what undoes this. Elsewhere than in the main thread Python cannot catch signals, and we do not.
        """
        if threading.current_thread() is not threading.main_thread():
            return lambda: None
        before = {sign: signal.getsignal(sign) for sign in (signal.SIGINT, signal.SIGTERM)}

        def restore():
            for sign, handler in before.items():
                signal.signal(sign, handler)

        def ask(number, frame):
            self.interrupted = True
            restore()
        for sign, handler in before.items():
            if handler in (signal.default_int_handler, signal.SIG_DFL):     # a shell that started us in the background has its way
                signal.signal(sign, ask)
        return restore

    def _agree(self):
        """The same clock and the same wish to stop in every process, or one would leave and the others wait for ever."""
        self.stopped = self.interrupted
        if self.world > 1:
            shared = torch.tensor([self.seconds, float(self.interrupted)], device=self.device)
            dist.all_reduce(shared, dist.ReduceOp.MAX)
            self.seconds, self.stopped = float(shared[0]), bool(shared[1])

    def report(self):
        rate = (self.step * self.batch * self.world) / max(self.seconds, 1e-9)
        left = self.seconds * (1 / max(self.progress, 1e-9) - 1) / 60
        return " ".join(f"{k} {v:.4f}" for k, v in self.losses.items()) + f" {rate:.0f}/s {left:.1f} min left"

    # ------------------------------------------------------------------------------------------------ weights

    @torch.no_grad()
    def _average_weights(self):
        decay = min(self.decay, (1 + self.step) / (10 + self.step))             # short memory at first, or it remembers noise
        for name, module in self.modules.items():
            pairs = [(a, v) for a, v in zip(self.average[name].values(), module.state_dict().values()) if v.is_floating_point()]
            torch._foreach_lerp_([a for a, _ in pairs], [v for _, v in pairs], 1 - decay)

    def averaged(self, name):
        """Load the running average into module `name` and return it."""
        self.modules[name].load_state_dict(self.average[name])
        return self.modules[name]

    def _share_gradients(self):
        """With several processes, every one takes the mean of all gradients (what DistributedDataParallel does)."""
        if self.world == 1:
            return
        for p in self.parameters:
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad         # unused here, perhaps not elsewhere
        flat = torch.cat([p.grad.flatten() for p in self.parameters])
        dist.all_reduce(flat)
        parts = (flat / self.world).split([p.numel() for p in self.parameters])
        torch._foreach_copy_([p.grad for p in self.parameters], [g.view_as(p) for g, p in zip(parts, self.parameters)])

    # ------------------------------------------------------------------------------------------------ checkpoints

    def save(self):
        if self.rank > 0:
            return
        state = {"modules": {n: m.state_dict() for n, m in self.modules.items()}, "average": self.average,
                 "optimizer": self.optimizer.state_dict(), "step": self.step, "seconds": self.seconds, "losses": self.losses}
        write_pickle(self.path, state)

    def _resume(self):
        try:
            state = torch.load(self.path, map_location=self.device, weights_only=True)
            for name, module in self.modules.items():
                module.load_state_dict(state["modules"][name])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, KeyError, ValueError, EOFError, TypeError, pickle.UnpicklingError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{self.path} does not belong to this run ({why}); use another folder or --fresh") from error
        self.average, self.step, self.seconds, self.losses = state["average"], state["step"], state["seconds"], state["losses"]


def _join_processes():
    """(rank, number of processes); joins the group that torchrun describes in the environment, if there is one."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return (dist.get_rank(), world) if world > 1 else (0, 1)


@contextmanager
def main_process_first():
    """What is inside is done by the first process while the others wait; they then find it done (drawn, cached)."""
    rank, world = _join_processes()
    if rank > 0:
        dist.barrier()
    yield
    if rank == 0 and world > 1:
        dist.barrier()


@contextmanager
def progress(steps, what):
    """A progress bar over `steps` steps of `what`; afterwards bar.n is how many were made.

    Ctrl-C ends the loop inside, and nothing else: what was learned stays as far as it got.
    """
    bar = trange(steps, desc=what)
    try:
        yield bar
    except KeyboardInterrupt:
        print(f"\nstopped after {bar.n} of {steps} steps; going on with what was learned")
    finally:
        bar.close()


def update(optimizer, loss, step, bar, clip=None, lower="--lr"):
    """One optimiser step on `loss`, a scalar, which `bar` then shows.

    clip: the largest norm of all gradients together, None for any.   lower: what to lower where the loss is not finite, which
    is a FloatingPointError, and changes no weight.
    """
    if not torch.isfinite(loss):
        raise FloatingPointError(f"the loss is {loss.item()} at step {step}; lower {lower}")
    optimizer.zero_grad()
    loss.backward()
    if clip is not None:
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    optimizer.step()
    bar.set_postfix(loss=f"{loss.item():.4f}")


def count(module: nn.Module):
    """Millions of parameters."""
    return sum(p.numel() for p in module.parameters()) / 1e6
