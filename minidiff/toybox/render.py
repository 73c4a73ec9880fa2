"""From a scene, which is plain data, to a picture and its ground truth."""
import numpy as np

from .backdrops import backdrop, landscape
from .canvas import PART_ID, Canvas, ellipse
from .hands import draw_hand
from .people import SKIN, draw_portrait
from .scenes import DRAW
from .styles import distort, sketch, watercolor
from .things import draw_ornament


def render(scene, size=64):
    """Draw `scene` on a square canvas of `size` pixels. Returns the Canvas: picture, instance and part masks, depth."""
    canvas = Canvas(size)
    rng = np.random.default_rng(scene.seed)
    if scene.kind == "landscape":
        landscape(canvas, scene, rng)
    else:
        backdrop(canvas, scene, rng)
    if scene.portrait is not None:
        with canvas.thing(1, .4):
            draw_portrait(canvas, scene.portrait)
    if scene.hand is not None:
        h = scene.hand
        with canvas.thing(1, .4), canvas.at(0, .05, h["scale"], h["tilt"], h["flip"]):
            draw_hand(canvas, scene.fingers, h, SKIN[scene.skin])
    for number, thing in enumerate(scene.things, 1):
        draw_object(canvas, thing, number)
    if scene.distortion:
        distort(canvas, scene.distortion, rng)
    if scene.style != "photo":
        canvas.rgb = {"watercolor": watercolor, "sketch": sketch}[scene.style](canvas.rgb)
    return canvas


def draw_object(canvas, thing, number):
    """One Thing with its shadow, as instance `number`; then its ornament on the part that carries it."""
    shadow = ellipse(thing.x, thing.ground, thing.scale * .8, thing.scale * .13)
    canvas.draw(shadow, (.1, .1, .15), shade=0, edge=0, alpha=.3, truth=False)
    with canvas.thing(number, .5), canvas.at(thing.x, thing.ground - .95 * thing.scale, thing.scale, thing.tilt, thing.flip):
        DRAW[thing.member](canvas, thing.params, thing.paint)
    if thing.ornament:
        name, part, rgb, *size = thing.ornament
        rows, columns = np.nonzero((canvas.part == PART_ID[part]) & (canvas.instance == number))
        if len(rows):
            to_world = lambda index: (index.mean() + .5) * canvas.pixel - 1
            with canvas.thing(number, .4):
                draw_ornament(canvas, name, to_world(columns), to_world(rows), (size[0] if size else .3) * thing.scale, rgb)
