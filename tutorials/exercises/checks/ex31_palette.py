import torch

from .tools import call, numbers, randn, same


def check_palette(palette):
    colors = numbers([50, 0, 0], [55, 9, 0], [56, 22, 0], [90, -5, 70], [20, 30, -60])
    lab = torch.stack([colors[[0, 0, 1, 2]], colors[[3, 3, 3, 4]], colors[[4, 1, 2, 2]]]) + randn(3, 4, 3, seed=1)
    share = numbers([.5, .25, .25, 0, 0], [0, 0, 0, .75, .25], [0, .25, .5, 0, .25])
    d, sigma = torch.stack([(colors - c).norm(dim=1) for c in colors], dim=1), 10.0

    def spread(share, distances=d.square(), width=2 * sigma ** 2, sums_over=0):
        k = torch.exp(-distances / width)
        return share @ (k / k.sum(dim=sums_over, keepdim=True)).T
    bins = torch.arange(5, dtype=torch.float64)
    by_product = torch.nn.functional.one_hot((lab @ colors.T).argmax(-1), 5).double().mean(1)
    of_mean = torch.nn.functional.one_hot(torch.cdist(lab.mean(1), colors).argmin(-1), 5).double()
    k = torch.exp(-d.square() / (2 * sigma ** 2))
    same(call(palette, lab, colors, sigma), spread(share), "shares of the nearest colours, spread by a kernel whose columns sum to 1", {
        "the shares are not spread over neighbouring colours": share,
        "pixels were counted: divide by how many there are": 4 * spread(share),
        "rows of the kernel sum to 1 here; the columns must, or the palette does not sum to 1": spread(share, sums_over=1),
        "the kernel is not normalised: its columns must sum to 1": share @ k,
        "the distance must be squared": spread(share, d), "the 2 is missing: 2 sigma^2": spread(share, width=sigma ** 2),
        "sigma must be squared": spread(share, width=2 * sigma),
        "sigma is a distance in Lab; here the distance is the one between places in the list":
            spread(share, (bins[:, None] - bins).square()),
        "the nearest colour has the smallest distance, not the largest product": spread(by_product),
        "the pixels were averaged before: a red and green picture is not brown": spread(of_mean),
        "this is one palette for the whole batch": spread(share).mean(0).expand(3, 5)}, rtol=1e-5)
