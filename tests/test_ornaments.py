"""toybox/ornaments.py: objects that carry an ornament, and the judge of pictures to which one was added."""
import pytest
import torch

from minidiff.toybox import ornaments
from minidiff.toybox.ornaments import CARRIERS, CYAN, ORNAMENTS, carriers, matches, part_masks


@pytest.mark.parametrize("member", CARRIERS)
def test_the_ornament_is_all_that_differs_and_lies_on_the_part_that_carries_it(member):
    plain, with_it = carriers(member, 3, 1), carriers(member, 3, 1, "heart")
    ornament, part = part_masks(with_it, "ornament"), part_masks(plain)
    assert bool((ornament.sum((1, 2, 3)) > 60).all()) and not part_masks(plain, "ornament").any()
    assert float((ornament * part).sum() / ornament.sum()) > .8
    change = (plain.images - with_it.images).abs().amax(1, keepdim=True) > .02
    assert not (change & (torch.nn.functional.max_pool2d(ornament, 3, 1, 1) == 0)).any()
    assert torch.equal(part_masks(with_it), torch.maximum(part, ornament)) and plain.captions == with_it.captions
    assert torch.equal(carriers(member, 5, 1).images[:3], plain.images) and all(member in c for c in plain.captions)


def test_the_judge_names_the_ornament_that_was_drawn_and_fits_none_where_nothing_has_changed():
    plain = carriers("vase", 3, 2)
    masks = part_masks(plain)
    for k, name in list(enumerate(ORNAMENTS))[::2]:
        fit = matches(plain.images, carriers("vase", 3, 2, name).images, masks)
        assert fit.shape == (3, len(ORNAMENTS)) and fit.argmax(1).tolist() == [k] * 3 and float(fit[:, k].min()) > .6
    assert float(matches(plain.images, plain.images, masks).max()) == 0
    all_over = torch.where(masks > 0, torch.tensor(CYAN).reshape(3, 1, 1), plain.images)
    assert float(matches(plain.images, all_over, masks).max()) < .6
    red = carriers("vase", 3, 2, "heart", rgb=(.9, .1, .1)).images                     # the right outline in another colour
    assert float(matches(plain.images[:1], red[:1], masks[:1]).max()) < .5


def test_what_changes_outside_the_mask_does_not_count():
    plain, with_it = carriers("mug", 2, 3), carriers("mug", 2, 3, "bolt")
    fit = matches(plain.images, with_it.images, part_masks(plain))
    spoilt = with_it.images.clone()
    spoilt[:, :, :8] = torch.tensor(CYAN).reshape(3, 1, 1)
    assert torch.equal(matches(plain.images, spoilt, part_masks(plain)), fit)
    assert not matches(plain.images, with_it.images, torch.zeros(2, 1, 64, 64)).any()


def test_a_rough_mask_is_the_box_around_it_and_targets_come_with_words_and_numbers():
    mask = torch.zeros(2, 1, 64, 64)
    mask[0, 0, 20, 30], mask[0, 0, 25, 33], mask[1, 0, 40:44, 40:44] = 1, 1, 1
    rough = ornaments.around(mask)
    assert rough[0, 0].sum() == (6 + 6) * (4 + 6) and bool((rough[0, 0, 17:29, 27:37] == 1).all()) and rough[1, 0].sum() == 100
    given = ornaments.targets("heart", 4, n=1)
    assert given.members == ["mug", "vase", "pot"] and [t.split()[1] for t in given.things] == given.members
    with_it = torch.cat([carriers(m, 1, 4, "heart").images for m in given.members])
    right, none = given.measure(with_it), given.measure(given.images)
    assert right["recognised_same"] == right["recognised_other"] == 1 and none["recognised_same"] == none["score_other"] == 0
    assert right["psnr_outside_same"] == right["psnr_outside_other"] == 100 and right["score_same"] > .7
    assert given.same_and_other("x", torch.tensor([1.0, 2.0, 4.0])) == {"x_same": 1.0, "x_other": 3.0}


@pytest.mark.parametrize("member, name", [("cat", "heart"), ("mug", "moon")])
def test_what_it_cannot_draw_is_one_sentence(member, name):
    with pytest.raises(ValueError, match="expected one of star, .* on one of mug"):
        ornaments.carriers(member, 1, 0, name)
