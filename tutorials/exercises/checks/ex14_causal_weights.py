import torch

from .tools import call, randn, same


def check_causal_weights(causal_weights):
    scores = 2 * randn(2, 3, 5, 5, seed=1)
    want = torch.zeros_like(scores)
    for i in range(5):
        want[..., i, :i + 1] = scores[..., i, :i + 1].softmax(-1)               # the softmax of what token i sees
    sees = torch.ones(5, 5, dtype=torch.bool).tril()
    got = call(causal_weights, scores)
    assert not (isinstance(got, torch.Tensor) and got.isnan().any()), "NaN: some token sees nothing at all. Each must see itself"
    same(got, want, "row i must be the softmax over tokens 0 .. i, and 0 for later ones", {
        "the weights of later tokens were set to 0 after the softmax: rows must still sum to 1": scores.softmax(-1) * sees,
        "a token sees what is to its right here: keep j <= i, the lower triangle":
            scores.masked_fill(~sees.T, float("-inf")).softmax(-1),
        "a score of 0 is not nothing, its exponential is 1: fill in -infinity": (scores * sees).softmax(-1),
        "the softmax runs over the columns; rows must sum to 1": scores.masked_fill(~sees, float("-inf")).softmax(-2),
        "nothing is masked": scores.softmax(-1)})
    hidden = scores.clone()
    hidden[..., ~sees] += 50
    same(call(causal_weights, hidden), want,
         "a very high score of a later token changes the weights: fill in -infinity, not some small number")
