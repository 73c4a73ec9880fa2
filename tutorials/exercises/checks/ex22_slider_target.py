from .tools import call, constant, randn, same


def check_slider_target(slider_target):
    e_t = randn(2, 3, 4, 4, seed=1).requires_grad_()
    e_pos, e_neg = randn(2, 2, 3, 4, 4, seed=2), randn(2, 2, 3, 4, 4, seed=3).requires_grad_()      # P = B: a wrong axis raises no error
    way, eta = e_pos - e_neg, 2.5
    got = call(slider_target, e_t, e_pos, e_neg, eta)
    same(got, e_t + eta * (way[0] + way[1]), "e_t plus eta times the ways from e_neg to e_pos, added up over the preserved concepts", {
        "e_pos and e_neg are swapped: this slider makes people younger": e_t - eta * (way[0] + way[1]),
        "this is the mean over the preserved concepts; Eq. (8) is a sum": e_t + eta * (way[0] + way[1]) / 2,
        "the sum runs over the batch: p is the first axis": e_t + eta * way.sum(1),
        "only the first preserved concept is used": e_t + eta * way[0],
        "this starts from e_neg; the target is the concept itself, moved": e_neg[0] + eta * (way[0] + way[1]),
        "e_t is missing: the slider would forget what a person is": eta * (way[0] + way[1]),
        "eta is not used": e_t + way[0] + way[1],
        "eta multiplies e_t as well": eta * (e_t + way[0] + way[1])})
    constant(got, "a gradient flows through the target: it must be a constant, .detach() it")
    same(call(slider_target, e_t, e_pos[:1], e_neg[:1], -1.0), e_t - way[0], "one pair, and eta -1, must reverse the direction")
