"""What the checks share. A check gets a function, calls it, and raises AssertionError with a sentence that names the likely cause."""
import inspect
import traceback

import torch


def randn(*shape, seed=0, dtype=torch.float64):
    """Standard normal numbers, the same in every run."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def call(function, *args):
    """function(*args). It must come to an end, and change nothing that it was given."""
    __tracebackhide__ = True
    before = snapshot(args)
    try:
        result = function(*args)
    except (AssertionError, NotImplementedError):
        raise
    except Exception as error:
        raise AssertionError(stopped(function, args, error)) from error
    for name, was, is_now in zip(names_of(function, args), before, snapshot(args)):
        assert same_value(was, is_now), (f"{name} was changed in place: it belongs to the caller. x + y makes a new tensor; x += y, "
                                         "x[...] = y and functions that end in _ change the old one")
    return result


def same(got, want, hint, mistakes=None, rtol=1e-6, atol=1e-9):
    """AssertionError unless got is want: with the cause in `mistakes` {cause: what it makes} that explains it, or with the hint."""
    __tracebackhide__ = True
    kind = {type(None): "nothing came back (None): is there a return?", tuple: "a tuple came back, expected one tensor",
            list: "a list came back, expected one tensor"}
    assert isinstance(got, torch.Tensor), kind.get(type(got), f"a {type(got).__name__} came back, expected a tensor: .item() and float() "
                                                              "leave torch, and the gradient behind")
    for cause, value in (mistakes or {}).items():
        is_this = got.shape == value.shape and torch.allclose(got.detach().to(value), value.detach(), rtol=rtol, atol=atol)
        assert not is_this, cause
    assert got.shape == want.shape, f"the shape is {tuple(got.shape)}, expected {tuple(want.shape)}: {hint}"
    assert got.dtype == want.dtype, (f"the dtype is {name_of(got)}, expected {name_of(want)}: a new tensor needs dtype=..., and a sum or "
                                     "product has the wider dtype of the two")
    torch.testing.assert_close(got.detach(), want.detach(), rtol=rtol, atol=atol, msg=lambda values: f"{hint}\n\n{values}")


def gradient(result, x, hint):
    """Gradient of result.sum() with respect to x; zeros where x does not enter. AssertionError with the hint if there is no gradient."""
    __tracebackhide__ = True
    assert result.requires_grad, hint
    g = torch.autograd.grad(result.sum(), x, allow_unused=True, retain_graph=True)[0]
    return torch.zeros_like(x) if g is None else g


def constant(result, hint):
    """AssertionError with the hint if a gradient would flow through the result."""
    __tracebackhide__ = True
    assert not result.requires_grad, hint


def name_of(x):
    return str(x.dtype).removeprefix("torch.")


def names_of(function, args):
    parameters = list(inspect.signature(function).parameters)
    return parameters if len(parameters) == len(args) else [f"argument {i + 1}" for i in range(len(args))]


def snapshot(x):
    """A copy of tensors, in whatever lists and dicts they are."""
    if isinstance(x, torch.Tensor):
        return x.detach().clone(), x.requires_grad
    if isinstance(x, dict):
        return {k: snapshot(v) for k, v in x.items()}
    return [snapshot(v) for v in x] if isinstance(x, (list, tuple)) else x


def same_value(a, b):
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same_value(a[k], b[k]) for k in a)
    return len(a) == len(b) and all(map(same_value, a, b)) if isinstance(a, (list, tuple)) else a is b or a == b


def stopped(function, args, error):
    """What to say of an error within the function: where it was, and what it had been given."""
    file = getattr(getattr(function, "__code__", None), "co_filename", None)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    where = f" at line {frames[-1].lineno}, `{frames[-1].line}`," if frames else ""
    given = ", ".join(f"{name} {tuple(a.shape)}" for name, a in zip(names_of(function, args), args) if isinstance(a, torch.Tensor))
    return f"it stopped{where} with {type(error).__name__}: {error}\nIt was given {given}. Do shapes and types fit, axis by axis?"
