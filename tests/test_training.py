"""Properties of minidiff.training: a run can be killed and goes on exactly, its learning rate and average are as said; short loops."""
import os
import signal

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from minidiff.checkpoints import CheckpointError
from minidiff.training import Run, progress, update

INPUTS = torch.linspace(-1, 1, 12).view(4, 3)


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def loss_of(net, generator):
    return (net(INPUTS + torch.randn(4, 3, generator=generator)) - 1).square().mean()


def start(folder, net=None, **changes):
    return Run(folder, {"net": net or model()}, **dict(dict(lr=1e-2, steps=8, warmup=4, seed=5), **changes))


def follow(run, until=None, kill=KeyboardInterrupt):
    """Train to the end, or up to a step at which the run is killed. Returns the trained module."""
    net = run.modules["net"]
    for step, generator in run:
        loss = loss_of(net, generator)
        if step == until:
            raise kill
        run.update(loss)
    return net


def same_weights(a, b):
    return all(torch.equal(a[k], b[k]) for k in a) and a.keys() == b.keys()


# resuming --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("until", [1, 4, 7])
def test_a_killed_run_goes_on_exactly(tmp_path, until):
    whole = start(tmp_path / "whole")
    follow(whole)
    with pytest.raises(KeyboardInterrupt):
        follow(start(tmp_path / "cut"), until)
    rest = start(tmp_path / "cut", model(seed=1))             # other start values: all must come from the checkpoint
    assert rest.step == until
    follow(rest)
    assert rest.step == whole.step == 8 and rest.losses == whole.losses
    assert same_weights(whole.modules["net"].state_dict(), rest.modules["net"].state_dict())
    assert same_weights(whole.average["net"], rest.average["net"])


def test_killed_twice_is_the_same_as_never(tmp_path):
    for until in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            follow(start(tmp_path / "cut"), until)
    assert same_weights(follow(start(tmp_path / "cut")).state_dict(), follow(start(tmp_path / "whole")).state_dict())


def test_a_checkpoint_from_the_middle_is_enough_when_there_was_no_time_to_save(tmp_path):
    """kill -9 leaves the last periodic checkpoint: the steps after it are done again."""
    run = start(tmp_path / "cut", save_every=-1.0)            # at every step
    saved = {}
    for step, generator in run:
        run.update(loss_of(run.modules["net"], generator))
        saved[run.step] = run.path.read_bytes()
    run.path.write_bytes(saved[3])
    again = start(tmp_path / "cut")
    assert again.step == 3
    assert same_weights(follow(again).state_dict(), run.modules["net"].state_dict())


@pytest.fixture
def interrupts():
    """Ctrl-C works, also where the tests were started in the background of a shell, which makes processes ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_ctrl_c_finishes_the_step_saves_and_leaves_with_status_130(tmp_path, capsys):
    run = start(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        for step, generator in run:
            if step == 2:
                os.kill(os.getpid(), signal.SIGINT)
            run.update(loss_of(run.modules["net"], generator))
    assert stopped.value.code == 130 and run.step == 3 and start(tmp_path).step == 3
    assert "stopped at step 3" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interrupts")
def test_a_second_ctrl_c_interrupts_at_once(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        for step, generator in start(tmp_path):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_finished_run_stays_as_it_is(tmp_path):
    net = follow(start(tmp_path))
    again = start(tmp_path, model(seed=1))
    assert [step for step, _ in again] == [] and same_weights(again.modules["net"].state_dict(), net.state_dict())


def test_fresh_starts_again(tmp_path):
    follow(start(tmp_path))
    assert start(tmp_path, fresh=True).step == 0 and not (tmp_path / "checkpoint.pt").exists()


def test_resuming_does_not_save_before_its_time(tmp_path):
    """The clock of the run counts from its first start, the clock of the checkpoints does not."""
    run = start(tmp_path, save_every=1e4)
    run.seconds = 2e4
    steps = iter(run)
    next(steps)
    run.update(loss_of(run.modules["net"], None))
    assert not run.path.exists() and run.seconds > 2e4


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "truncated", "other"])
def test_a_checkpoint_that_does_not_fit_says_so(tmp_path, content):
    run = start(tmp_path, nn.Linear(3, 2) if content == "other" else None)
    run.save()
    if content == "truncated":
        content = run.path.read_bytes()[:1000]
    if content != "other":
        run.path.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not belong to this run.*--fresh"):
        start(tmp_path)


# what a step does ------------------------------------------------------------------------------------------------

def test_learning_rate_rises_stays_and_falls(tmp_path):
    run, rates = start(tmp_path, lr=2.0, steps=20, warmup=4), []
    for step, _ in run:
        run.update(run.modules["net"](INPUTS).square().mean())
        rates.append(run.optimizer.param_groups[0]["lr"])
    assert_close(rates, [.5, 1.0, 1.5] + [2.0] * 8 + [2 * (2 - 2 * k / 20) for k in range(11, 20)])


def test_average_is_the_running_mean_of_the_weights_with_a_short_memory_at_first(tmp_path):
    run = start(tmp_path, ema=0.5)
    want = run.modules["net"][0].weight.detach().clone()
    for step, generator in run:
        run.update(loss_of(run.modules["net"], generator))
        decay = min(0.5, (1 + step) / (10 + step))
        want = decay * want + (1 - decay) * run.modules["net"][0].weight.detach()
        assert_close(run.average["net"]["0.weight"], want)
    assert torch.equal(run.averaged("net")[0].weight, run.average["net"]["0.weight"])


def test_random_numbers_depend_on_seed_step_and_process_only(tmp_path):
    def numbers(**changes):
        run, out = start(tmp_path / "r", fresh=True, **{k: v for k, v in changes.items() if k != "rank"}), []
        run.rank = changes.get("rank", 0)
        for step, generator in run:
            out.append(float(torch.rand((), generator=generator, dtype=torch.float64)))
            torch.rand(step)                                  # what the loop does elsewhere does not matter
            run.update(loss_of(run.modules["net"], None))
        return out
    assert numbers() == numbers(net=model(1), lr=1e-3, batch=7)
    assert len({*numbers(), *numbers(seed=6), *numbers(rank=1)}) == 24


@pytest.mark.parametrize("steps, minutes", [(None, None), (0, None), (-1, 1.0), (5, 0.0)])
def test_a_run_without_an_end_is_refused(tmp_path, steps, minutes):
    with pytest.raises(ValueError, match="steps or minutes above 0"):
        start(tmp_path, steps=steps, minutes=minutes)


def test_minutes_end_a_run(tmp_path):
    run = start(tmp_path, steps=None, minutes=1.0)
    for step, _ in run:
        run.update(run.modules["net"](INPUTS).square().mean())
        run.seconds += 21                                     # as if the step had taken so long
        run._started -= 21
    assert run.step == 3


# what goes wrong -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("spoil", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_weights_before_it(tmp_path, spoil):
    run = start(tmp_path)
    with pytest.raises(SystemExit, match=f"loss is {spoil} at step 3.*checkpoint.pt"):
        for step, generator in run:
            before = {k: v.clone() for k, v in run.modules["net"].state_dict().items()}
            run.update(loss_of(run.modules["net"], generator) * (spoil if step == 3 else 1))
    assert same_weights(start(tmp_path, model(1)).modules["net"].state_dict(), before)


def test_several_losses_are_one_step_on_their_mean(tmp_path):
    whole, parts = (start(tmp_path / name, clip=1e9) for name in ("whole", "parts"))
    for step, generator in whole:
        whole.update(sum(loss_of(whole.modules["net"], generator) for _ in range(3)) / 3)
    for step, generator in parts:
        parts.update(loss_of(parts.modules["net"], generator) for _ in range(3))
    assert_close(whole.modules["net"].state_dict(), parts.modules["net"].state_dict())
    assert_close([p.grad for p in whole.parameters], [p.grad for p in parts.parameters])
    assert whole.losses == pytest.approx(parts.losses)
    with pytest.raises(SystemExit, match="loss is nan at step 2"):
        run = start(tmp_path / "bad")
        for step, generator in run:
            run.update(loss_of(run.modules["net"], generator) * (float("nan") if step == 2 and i else 1) for i in range(2))


def test_a_gradient_that_is_not_finite_stops_the_run_before_it_spoils_the_weights(tmp_path):
    """sqrt has an infinite slope at 0: a finite loss of which nothing is left after the step."""
    run = start(tmp_path)
    with pytest.raises(SystemExit, match="gradient is nan at step 2"):
        for step, generator in run:
            loss = loss_of(run.modules["net"], generator)
            run.update(loss + (0 * loss).sqrt() if step == 2 else loss)
    assert all(v.isfinite().all() for v in start(tmp_path, model(1)).modules["net"].state_dict().values())


def test_what_is_frozen_stays(tmp_path):
    net = model()
    net[0].requires_grad_(False)
    before = net[0].weight.clone()
    assert torch.equal(follow(start(tmp_path, net, weight_decay=.5))[0].weight, before)


# several processes -----------------------------------------------------------------------------------------------

def process(rank, folder, port):
    """One of two processes, which starts a little later than the other and hears Ctrl-C alone."""
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    run = start(folder / "run", clip=1e9)                     # gradients are compared as they are
    try:
        for step, generator in run:
            if rank == 1 and step == 3:
                run.interrupted = True
            run.update(loss_of(run.modules["net"], generator))
    except SystemExit:
        torch.save({"step": run.step, "seconds": run.seconds, "net": run.modules["net"].state_dict(),
                    "gradients": [p.grad for p in run.parameters]}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_take_the_mean_gradient_and_stop_together(tmp_path):
    port = 29500 + os.getpid() % 1000
    torch.multiprocessing.spawn(process, (tmp_path, port), nprocs=2)
    a, b = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert a["step"] == b["step"] == 4 and a["seconds"] == b["seconds"]
    assert same_weights(a["net"], b["net"])
    alone = start(tmp_path / "alone", clip=1e9)               # one process that sees both halves of the batch
    for step, _ in alone:
        if step == 4:
            break
        halves = [torch.Generator().manual_seed((5 * 1_000_003 + step) * 1009 + rank) for rank in (0, 1)]
        alone.update(sum(loss_of(alone.modules["net"], g) for g in halves) / 2)
    assert_close([p.grad for p in alone.parameters], a["gradients"])
    assert_close(alone.modules["net"].state_dict(), a["net"])


def test_a_parameter_that_one_process_did_not_use_counts_as_a_gradient_of_zero(tmp_path, monkeypatch):
    run = start(tmp_path)
    run.world = 2
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: flat.mul_(3))        # as if the others had summed up twice ours
    for p in run.parameters[1:]:
        p.grad = torch.ones_like(p)
    run._share_gradients()
    assert (run.parameters[0].grad == 0).all()
    assert all((p.grad == 1.5).all() for p in run.parameters[1:])


# short loops -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("until, made", [(None, 5), (0, 0), (2, 2)])
def test_a_short_loop_counts_its_steps_and_ctrl_c_ends_it_and_nothing_else(capsys, until, made):
    with progress(5, "learning") as bar:
        for step in bar:
            if step == until:
                raise KeyboardInterrupt
    assert bar.n == made
    shown = capsys.readouterr()
    assert "learning" in shown.err and (f"stopped after {made} of 5 steps" in shown.out) == (until is not None)


def test_other_errors_leave_a_short_loop_as_they_are():
    with pytest.raises(FloatingPointError), progress(5, "learning") as bar:
        for _ in bar:
            raise FloatingPointError
    assert bar.disable                                        # closed


def learner(lr=.1):
    w = torch.tensor([3.0, 4.0], requires_grad=True)
    return w, torch.optim.SGD([{"params": [w]}], lr)


@pytest.mark.parametrize("clip, norm", [(None, 10), (20.0, 10), (1.0, 1)])
def test_an_update_is_one_step_against_the_gradient_of_this_loss_alone(clip, norm):
    (w, optimizer), shown = learner(), []
    with progress(2, "learning") as bar:
        bar.set_postfix = lambda **how: shown.append(how)
        for step in range(2):                                 # the same loss twice: nothing is left of the first gradient
            before = w.detach().clone()
            update(optimizer, w @ torch.tensor([6.0, 8.0]), step, bar, clip=clip)
            assert_close(w.detach(), before - .1 * norm * torch.tensor([.6, .8]))
    assert shown[0] == {"loss": "50.0000"}


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_loss_that_is_not_finite_moves_nothing_and_names_the_step_and_what_to_lower(bad):
    w, optimizer = learner()
    with progress(1, "learning") as bar, pytest.raises(FloatingPointError, match=f"the loss is {bad} at step 7; lower --speed"):
        update(optimizer, w.sum() * float(bad), 7, bar, lower="--speed")
    assert_close(w.detach(), torch.tensor([3.0, 4.0]))
