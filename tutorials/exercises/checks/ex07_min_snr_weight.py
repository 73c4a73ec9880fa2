from .tools import call, numbers, same


def check_min_snr_weight(min_snr_weight):
    snr, gamma = numbers(.01, .5, 1, 4, 8, 100), 5.0
    alpha_bar = snr / (1 + snr)
    want = numbers(1, 1, 1, 1, 5 / 8, 5 / 100)
    same(call(min_snr_weight, alpha_bar, gamma), want, "the weight must be 1 up to SNR = gamma, and gamma / SNR above", {
        "the ratio is upside down: signal over noise is alpha_bar / (1 - alpha_bar)": (1 / snr).clamp(max=gamma) * snr,
        "this is the larger of SNR and gamma: min, which is clamp(max=...)": snr.clamp(min=gamma) / snr,
        "not divided by SNR: this is the weight for a network that predicts x_0": snr.clamp(max=gamma),
        "this has no min: it would weigh noisy pictures without limit": gamma / snr,
        "divided by SNR + 1: that is for a network that predicts v": snr.clamp(max=gamma) / (snr + 1),
        "alpha_bar itself is not the signal-to-noise ratio": alpha_bar.clamp(max=gamma) / alpha_bar,
        "SNR has no square root here: alpha_bar is a variance already": snr.sqrt().clamp(max=gamma) / snr.sqrt()})
    same(call(min_snr_weight, alpha_bar, 1.0), numbers(1, 1, 1, .25, .125, .01), "gamma is an argument: another one moves the bend")
