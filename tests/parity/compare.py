"""What the parity tests of single models share: a peer with random weights, the same in ours, and how close is close."""
import tempfile

import torch

WORST = 1e-4                                      # relative, in float32


def randomised(peer, seed):
    """The peer with weights under which every one of them matters: as they are made, biases are 0 and norms do nothing."""
    g = torch.Generator().manual_seed(seed)
    for name, p in peer.named_parameters():
        numbers = torch.randn(p.shape, generator=g)
        is_scale = p.ndim == 1 and name.endswith("weight")
        p.data = 0.2 * numbers + is_scale if p.ndim == 1 or len(p) == 1 else numbers * p[0].numel() ** -0.5
    return peer.eval()


def loaded(make, peer):
    """`make.from_pretrained` of what the peer saved, with gradients."""
    with tempfile.TemporaryDirectory() as folder:
        peer.save_pretrained(folder)
        return make.from_pretrained(folder, dtype=torch.float32).requires_grad_(True)


def assert_near(got, want, what, worst=WORST):
    assert got.shape == want.shape, f"{what} has shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    error = (got - want).abs().max() / want.abs().max()
    assert error < worst, f"{what}: worst relative error {error:.1e}"


def assert_same_gradients(ours, outputs, peer, peer_outputs):
    """Both learn from the same loss. Errors are relative to the largest entry of a gradient, or to 1 % of the largest entry of
    all gradients if that is more: where a softmax or a norm takes out what a weight puts in (the bias of a key, of a layer in
    front of a norm with one channel per group), the true gradient is 0 and what is computed is rounding.
    """
    for results in (outputs, peer_outputs):
        g = torch.Generator().manual_seed(1)
        sum((x * torch.randn(x.shape, generator=g)).sum() for x in results).backward()
    peers = dict(peer.named_parameters())
    largest = max(p.grad.abs().max() for p in peers.values() if p.grad is not None)
    for name, p in ours.named_parameters():
        if p.grad is None or peers[name].grad is None:
            assert p.grad is peers[name].grad, f"only one of the two has a gradient of {name}"
            continue
        error = (p.grad - peers[name].grad).abs().max() / max(peers[name].grad.abs().max(), 1e-2 * largest)
        assert error < WORST, f"gradient of {name}: worst relative error {error:.1e}"
