"""Properties of minidiff.images."""
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close

from minidiff import images


def picture(*size, seed=0):
    return torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(seed)) / 255


def test_saving_and_loading_a_png_changes_nothing(tmp_path):
    image = picture(20, 30)
    images.save(tmp_path / "deep" / "a.png", image)
    assert_close(images.load(tmp_path / "deep" / "a.png"), image, atol=0, rtol=0)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a.png"]      # no temporary file is left


@pytest.mark.parametrize("name, kind", [("a.jpg", "JPEG"), ("a.webp", "WEBP"), ("a", "PNG"), ("a.PNG", "PNG")])
def test_the_suffix_chooses_the_format(name, kind, tmp_path):
    images.save(tmp_path / name, picture(16, 16))
    with Image.open(tmp_path / name) as file:
        assert file.format == kind


def test_values_outside_the_range_are_clipped_when_saving(tmp_path):
    images.save(tmp_path / "a.png", torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1).expand(3, 8, 8))
    assert_close(images.load(tmp_path / "a.png")[:, 0, 0], torch.tensor([0.0, 128 / 255, 1.0]))


def test_loading_with_a_size_takes_the_middle_square(tmp_path):
    left, middle, right = torch.zeros(3, 16, 8), torch.full((3, 16, 16), 0.6), torch.ones(3, 16, 8)
    images.save(tmp_path / "a.png", torch.cat([left, middle, right], dim=2))
    assert_close(images.load(tmp_path / "a.png", size=32), torch.full((3, 32, 32), 0.6))


def test_grey_transparent_and_rotated_pictures_become_upright_rgb(tmp_path):
    Image.new("L", (10, 10), 51).save(tmp_path / "grey.png")
    assert_close(images.load(tmp_path / "grey.png"), torch.full((3, 10, 10), 0.2))
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert_close(images.load(tmp_path / "clear.png"), torch.ones(3, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6                                                         # the camera was held upright
    Image.new("RGB", (10, 20)).save(tmp_path / "camera.jpg", exif=exif)
    assert images.load(tmp_path / "camera.jpg").shape == (3, 10, 20)


def test_grey_of_16_bits_keeps_its_values(tmp_path):
    grey = torch.arange(65536).reshape(256, 256)
    Image.fromarray(grey.numpy().astype("uint16")).save(tmp_path / "a.png")
    assert_close(images.load(tmp_path / "a.png"), (grey / 65535).expand(3, -1, -1), atol=.002, rtol=0)


def test_the_nearest_pixel_brings_no_new_colour(tmp_path):
    image = (torch.arange(30).expand(3, 30, 30) % 7 > 2).float()
    images.save(tmp_path / "a.png", image)
    assert set(images.load(tmp_path / "a.png", 16, smooth=False).unique().tolist()) == {0, 1}
    assert len(images.load(tmp_path / "a.png", 16).unique()) > 2


def test_sides_are_width_and_height_of_what_is_loaded(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (10, 20)).save(tmp_path / "a.jpg", exif=exif)
    assert images.sides(tmp_path / "a.jpg") == (20, 10) == images.load(tmp_path / "a.jpg").shape[:0:-1]


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for i, name in enumerate(["b.png", "a.png", "c.PNG"]):
        images.save(tmp_path / name, torch.full((3, 8, 8), i / 2))
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_text("nor is this")
    assert [path.name for path in images.files(str(tmp_path))] == ["a.png", "b.png", "c.PNG"]
    assert_close(images.load_folder(tmp_path, 8)[:, 0, 0, 0], torch.tensor([128 / 255, 0.0, 1.0]))


def test_missing_unreadable_and_tiny_pictures_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no picture at"):
        images.load(tmp_path / "a.png")
    with pytest.raises(ValueError, match="is a folder"):
        images.load(tmp_path)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match="text.png cannot be read"):
        images.load(tmp_path / "text.png")
    images.save(tmp_path / "whole.png", picture(64, 64))
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    with pytest.raises(ValueError, match="half.png cannot be read"):
        images.load(tmp_path / "half.png")
    images.save(tmp_path / "tiny.png", picture(40, 7))
    with pytest.raises(ValueError, match="7x40 pixels, expected at least 8x8"):
        images.load(tmp_path / "tiny.png")


def test_a_picture_and_its_mask_lose_the_same_sides(tmp_path):
    image, inside = picture(16, 32), torch.zeros(3, 16, 32)
    inside[:, 4:8, 10:20] = .8                                               # light, if not white
    images.save(tmp_path / "a.png", image)
    images.save(tmp_path / "m.png", inside)
    got, mask = images.load_masked(tmp_path / "a.png", tmp_path / "m.png", 16)
    assert_close(got, image[:, :, 8:24], atol=0, rtol=0)
    assert_close(mask, (inside[:1, :, 8:24] > 0).float(), atol=0, rtol=0)


def test_a_mask_of_another_size_or_with_nothing_inside_or_outside_is_refused(tmp_path):
    border = torch.zeros(3, 16, 32)
    border[:, :, :6] = 1                                                     # light where the picture is cut off
    masks = {"small": torch.zeros(3, 16, 16), "dark": torch.zeros(3, 16, 32), "light": torch.ones(3, 16, 32), "border": border}
    for name, mask in masks.items():
        images.save(tmp_path / f"{name}.png", mask)
    images.save(tmp_path / "a.png", picture(16, 32))
    for name, says in {"small": "16x16 pixels and .* 32x16", "dark": "dark all over", "light": "light all over", "border": "dark all"}.items():
        with pytest.raises(ValueError, match=says):
            images.load_masked(tmp_path / "a.png", tmp_path / f"{name}.png", 16)


def test_missing_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        images.load_folder(tmp_path / "missing", 8)
    with pytest.raises(ValueError, match="no pictures in"):
        images.load_folder(tmp_path, 8)


def test_what_is_no_image_is_not_saved_and_leaves_no_file(tmp_path):
    for wrong, message in [(torch.zeros(1, 3, 8, 8), "shape"), (torch.full((3, 8, 8), torch.nan), "not finite")]:
        with pytest.raises(ValueError, match=message):
            images.save(tmp_path / "a.png", wrong)
    with pytest.raises(ValueError, match="cannot write a picture as '.xyz'"):
        images.save(tmp_path / "a.xyz", picture(8, 8))
    assert not list(tmp_path.iterdir())


def test_a_grid_without_text_is_the_images_with_white_between():
    parts = torch.stack([picture(8, 10, seed=i) for i in range(5)])
    sheet = images.grid(parts, columns=3, gap=2)
    assert sheet.shape == (3, 2 + 2 * 10, 2 + 3 * 12)
    for n, part in enumerate(parts):
        i, j = divmod(n, 3)
        assert_close(sheet[:, 2 + 10 * i:10 + 10 * i, 2 + 12 * j:12 + 12 * j], part, atol=0, rtol=0)
    assert (sheet[:, :2] == 1).all() and (sheet[:, 12:, 26:] == 1).all()     # margin, missing sixth image


def test_enlarging_repeats_every_pixel():
    part = picture(8, 8)
    sheet = images.grid(part[None], columns=1, gap=0, scale=3)
    assert_close(sheet, part.repeat_interleave(3, dim=1).repeat_interleave(3, dim=2), atol=0, rtol=0)


def test_labels_add_dark_text_outside_the_images():
    parts = torch.ones(4, 3, 32, 32)
    plain, labelled = images.grid(parts, 2), images.grid(parts, 2, ["seed 0", "seed 1"], ["-1", "a much longer label"], "A title")
    assert (plain == 1).all() and labelled.shape[1] > plain.shape[1] and labelled.shape[2] > plain.shape[2]
    assert labelled.min() < 0.3
    corner = labelled[:, -(32 + 4):-4, -(32 + 4):-4]
    assert (corner == 1).all()


def test_a_figure_is_written_with_one_row_per_seed(tmp_path):
    images.save_figure(tmp_path / "figure.png", torch.rand(2, 3, 3, 16, 16), ["seed 0", "seed 1"], ["-1", "0", "1"], "age", scale=2)
    assert images.load(tmp_path / "figure.png").shape[1] > 2 * 32
    with pytest.raises(ValueError, match="2 row labels for 3 rows"):
        images.save_figure(tmp_path / "figure.png", torch.rand(3, 2, 3, 16, 16), ["seed 0", "seed 1"])
    with pytest.raises(ValueError, match="rows, columns, 3, H, W"):
        images.save_figure(tmp_path / "figure.png", torch.rand(2, 3, 16, 16))


@pytest.mark.parametrize("side, scale", [(16, 2), (128, 1)])
def test_samples_are_written_as_numbers_and_as_a_row_for_each_prompt(tmp_path, side, scale):
    made = torch.stack([picture(side, side, seed=i) for i in range(6)])
    made[0, :, 0, :2] = torch.tensor([1.0, 0.0])
    rough = made - .001                                                      # less than half a level
    rough[0, :, 0, :2] = torch.tensor([1.5, -.5])
    images.save_samples(tmp_path / "deep", rough, ["a red cat", "a blue chair"])
    stored = load_file(tmp_path / "deep" / "samples.safetensors")
    assert list(stored) == ["images"] and torch.equal(stored["images"], (made * 255).round().byte())
    assert {path.name for path in (tmp_path / "deep").iterdir()} == {"samples.safetensors", "samples.png"}
    want = images.grid(made, 3, row_labels=["a red cat", "a blue chair"], scale=scale)
    assert_close(images.load(tmp_path / "deep" / "samples.png"), want, atol=1e-3, rtol=0)


def test_samples_that_are_not_as_many_of_each_prompt_are_refused_and_leave_no_file(tmp_path):
    for n, prompts in [(3, ["a", "b"]), (0, ["a"]), (3, [])]:
        with pytest.raises(ValueError, match=f"{n} pictures of {len(prompts)} prompts"):
            images.save_samples(tmp_path, torch.rand(n, 3, 16, 16), prompts)
    assert not list(tmp_path.iterdir())


def test_clip_pixels_of_an_image_of_the_right_size_are_only_normalised():
    image = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pixels = images.clip_pixels(image, size=32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (images.CLIP_MEAN, images.CLIP_STD))
    assert_close(pixels * std + mean, image)


@pytest.mark.parametrize("height, width", [(40, 60), (60, 40), (17, 16), (16, 16), (200, 33)])
def test_clip_pixels_resizes_as_pillow_does_and_keeps_the_middle(height, width):
    small = images.to_pillow(picture(height // 8 + 1, width // 8 + 1))
    image = images.from_pillow(small.resize((width, height), Image.Resampling.BICUBIC))
    new = [int(32 * side / min(height, width)) for side in (height, width)]
    want = images.from_pillow(images.to_pillow(image).resize(new[::-1], Image.Resampling.BICUBIC))
    top, left = (round((side - 32) / 2) for side in new)
    got = images.clip_pixels(image[None], 32, mean=(0, 0, 0), std=(1, 1, 1))[0]
    assert_close(got, want[:, top:top + 32, left:left + 32], atol=1.6 / 255, rtol=0)   # Pillow rounds twice to 8 bits


def test_clip_pixels_lets_gradients_through():
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    images.clip_pixels(image, size=32).sum().backward()
    assert image.grad.abs().sum() > 0


def test_clip_pixels_refuses_a_single_image():
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        images.clip_pixels(torch.zeros(3, 16, 16))
