from .tools import call, numbers, randn, same


def check_compose_guidance(compose_guidance):
    e_uncond, e_conds, weights = randn(2, 3, 5, 3, seed=1), randn(3, 2, 3, 5, 3, seed=2), numbers(2.0, .5, -1.0)      # n = W
    ways = [e - e_uncond for e in e_conds]
    add = lambda w: e_uncond + sum(float(x) * way for x, way in zip(w, ways))
    in_turn = e_uncond
    for w, e in zip(weights, e_conds):
        in_turn = in_turn + w * (e - in_turn)
    same(call(compose_guidance, e_uncond, e_conds, weights), add(weights),
         "start at e_uncond, and add w_i (e_i - e_uncond) for each prompt", {
        "this is the mean over the prompts; their ways add up": add(weights / 3),
        "the predictions were added, and e_uncond subtracted only once: it belongs to each way":
            e_uncond + sum(w * e for w, e in zip(weights, e_conds)) - e_uncond,
        "e_uncond was added once for each prompt": add(weights) + 2 * e_uncond,
        "the weights were multiplied along the width: (n,) lines up with W; make it (n, 1, 1, 1, 1)":
            e_uncond + (weights * (e_conds - e_uncond)).sum(0),
        "a negative weight must lead away from its prompt: no abs, no clamp": add(weights.abs()),
        "a negative weight must lead away from its prompt; here it does nothing": add(weights.clamp(min=0)),
        "only the first prompt is followed": add(weights[:1]),
        "one prompt after the other, each from where the last one ended: all ways start at e_uncond": in_turn})
    same(call(compose_guidance, e_uncond, e_conds[:1], weights[:1]), add(weights[:1]), "one prompt is plain guidance")
