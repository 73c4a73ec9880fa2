"""minidiff/charts.py: every number is where it belongs. (`save_curves` is tested with papers/conceptlab.py, which writes with it.)"""
import torch
from torch.testing import assert_close

from minidiff import charts, images


def colour_at(sheet, row, column):
    return (sheet[:, row, column] * 255).round().int().tolist()


def test_curves_say_what_is_below_and_saved_ones_are_the_same_picture(tmp_path):
    lines = {"up": (0, [0.0, 1.0])}
    charts.save_curves(tmp_path / "a.png", lines, "a title", 1)
    assert_close(images.load(tmp_path / "a.png"), charts.curves(lines, "a title", 1))
    a, b = charts.curves(lines), charts.curves(lines, below="guidance")
    assert_close(a[:, :270], b[:, :270])
    assert not torch.equal(a, b)


def test_points_are_where_their_numbers_are_and_later_clouds_lie_on_top():
    cloud = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, -1.1]])
    x = charts.points(cloud, torch.tensor([[1.0, 1.0]]), low=-1, high=1, size=21, dot=1)
    assert x.shape == (3, 21, 21)
    assert colour_at(x, 20, 0) == list(charts.COLOURS[0])               # lower left
    assert colour_at(x, 0, 10) == list(charts.COLOURS[0])               # top, in the middle
    assert colour_at(x, 0, 20) == list(charts.COLOURS[1])
    assert int((x < 1).any(dim=0).sum()) == 3                           # what is outside is not drawn
    wide = charts.points(torch.tensor([[5.0, 0.0]]), low=(0, -1), high=(10, 1), size=21, dot=1)
    assert colour_at(wide, 10, 10) == list(charts.COLOURS[0])


def test_dots_have_their_size_and_stay_in_the_picture():
    x = charts.points(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), low=-1, high=1, size=20, dot=3)
    assert int((x < 1).any(dim=0).sum()) == 18


def test_tiles_are_white_at_0_and_dark_at_1_row_by_row():
    x = charts.tiles(torch.tensor([[0.0, 0.5], [1.0, 2.0]]), size=3)
    assert x.shape == (4, 3, 3, 3) and torch.equal(x[0], torch.ones(3, 3, 3))
    assert_close(x[2, :, 1, 1], torch.tensor([.1, .4, .9]))
    assert torch.equal(x[2], x[3]) and (x[1] > x[2]).all()
