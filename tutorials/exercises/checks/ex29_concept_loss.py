from .tools import call, gradient, numbers, same


def check_concept_loss(concept_loss):
    s_pos, s_neg = numbers(.35, .1, .22).requires_grad_(), numbers(.05, .3, .21, .12).requires_grad_()
    low, high, lam = .2, .28, 1.5
    n, p = numbers(.2, .3, .21, .2), numbers(.28, .1, .22)
    loss = call(concept_loss, s_pos, s_neg, low, high, lam)
    total = lambda negative, p=p, lam=lam: negative + lam * (1 - p.mean())
    both = (n.mean() + n.max()) / 2
    same(loss, total(both), "half of mean and maximum of the negatives, plus lam times one minus the mean of the positives", {
        "nothing is clamped": total((s_neg.mean() + s_neg.max()) / 2, s_pos),
        "the negatives are not clamped": total((s_neg.mean() + s_neg.max()) / 2),
        "the positives are not clamped": total(both, s_pos),
        "clamp(min=...) is max(...): negatives get a floor tau_min, positives a ceiling tau_max; here it is the other way round":
            total((s_neg.clamp(max=low).mean() + s_neg.clamp(max=low).max()) / 2, s_pos.clamp(min=high)),
        "the negatives have a floor, tau_min, not a ceiling": total((s_neg.clamp(max=low).mean() + s_neg.clamp(max=low).max()) / 2),
        "tau_min and tau_max are swapped": total((s_neg.clamp(min=high).mean() + s_neg.clamp(min=high).max()) / 2, s_pos.clamp(max=low)),
        "the maximum is missing: the nearest member must count most": total(n.mean()),
        "the mean over all members is missing": total(n.max()),
        "mean and maximum are added: take half": total(2 * both),
        "the nearest member is the one with the largest cosine, not the smallest": total((n.mean() + n.min()) / 2),
        "lam weighs the positives, not the negatives": lam * both + 1 - p.mean(), "lam is not used": total(both, lam=1),
        "positives must get larger: 1 - their mean": both + lam * p.mean(), "negatives must get smaller: plus, not minus": total(-both),
        "positives are summed: take the mean": both + lam * (1 - p.sum())})
    for x, want in ((s_pos, numbers(0, -.5, -.5)), (s_neg, numbers(0, .125 + .5, .125, 0))):
        g = gradient(loss, x, "no gradient reaches the cosines: no detach, .item() or torch.tensor here")
        same(g, want, "the value is right, but the gradient is not that of the formula: 0 for what is clamped, none for what is detached")
    same(call(concept_loss, s_pos, s_neg[:0], low, high, lam), total(0.0),
         "without negatives the first term must be 0; the mean of nothing is NaN")
