"""Where a scene takes place: plain grounds, simple places, and landscapes in their weather."""
import numpy as np

from .canvas import ellipse, line, polygon
from .scenes import PLAIN_GROUNDS


def backdrop(canvas, scene, rng):
    """Behind portraits, objects and hands: a plain colour or a simple place."""
    tint = 1 + .06 * scene.tint
    color = lambda *rgb: np.clip(np.array(rgb) * tint, 0, 1)
    if scene.background in PLAIN_GROUNDS:
        rgb = np.array(PLAIN_GROUNDS[scene.background]) * tint
        fall = (1.04 - .10 * (canvas.y + 1) - .03 * scene.tint * canvas.x)[..., None]
        canvas.rgb[:] = np.clip(rgb * fall, 0, 1)
        return
    horizon = float(rng.uniform(.05, .35))
    sky, ground = {"garden": (color(.55, .80, .97), color(.42, .70, .28)), "beach": (color(.50, .78, .96), color(.93, .83, .58)),
                   "room": (color(.90, .80, .66), color(.55, .36, .22)), "snow": (color(.72, .80, .90), color(.95, .97, 1.0)),
                   "night": (color(.07, .08, .25), color(.13, .20, .22))}[scene.background]
    _sky_and_ground(canvas, sky, ground, horizon)
    if scene.background == "garden":
        for x in rng.uniform(-1, 1, 4):
            canvas.draw(ellipse(x, horizon - .03, .28, .17), (.22, .52, .20), "background", truth=False)
    elif scene.background == "beach":
        canvas.draw(polygon([(-1.1, horizon - .22), (1.1, horizon - .22), (1.1, horizon), (-1.1, horizon)]), (.16, .48, .78),
                    shade=0, edge=0, truth=False)
    elif scene.background == "room":
        x = float(rng.choice((-.6, .6)))
        canvas.draw(polygon([(x - .28, -.85), (x + .28, -.85), (x + .28, -.3), (x - .28, -.3)]), (.70, .86, .97), truth=False)
    elif scene.background == "snow":
        for x, y in zip(rng.uniform(-1, 1, 10), rng.uniform(-1, horizon, 10)):
            canvas.draw(ellipse(x, y, .045), (1, 1, 1), shade=0, edge=0, truth=False)
    elif scene.background == "night":
        canvas.draw(ellipse(float(rng.choice((-.7, .7))), -.7, .16), (.98, .95, .75), shade=0, edge=.1, truth=False)
        for x, y in zip(rng.uniform(-1, 1, 7), rng.uniform(-1, horizon - .2, 7)):
            canvas.draw(ellipse(x, y, .035), (.95, .95, .85), shade=0, edge=0, truth=False)


def _sky_and_ground(canvas, sky, ground, horizon):
    """Two colour gradients that meet at `horizon`; the ground comes nearer towards the bottom."""
    below = np.clip((canvas.y - horizon) / canvas.pixel + .5, 0, 1)
    sky = np.asarray(sky) * (1 - .12 * (canvas.y - horizon))[..., None]
    ground = np.asarray(ground) * (1.08 - .2 * (canvas.y - horizon))[..., None]
    canvas.rgb[:] = np.clip(sky + below[..., None] * (ground - sky), 0, 1)
    canvas.depth[:] = 1 - .5 * np.clip((canvas.y - horizon) / (1 - horizon), 0, 1)


def landscape(canvas, scene, rng):
    """A place in a weather."""
    gray = {"sunny": 0.0, "cloudy": .55, "rainy": .8, "snowy": .5}[scene.weather]
    dim = lambda rgb: tuple(np.array(rgb) * (1 - .3 * gray) * (1 - .5 * gray) + .5 * gray * .45)
    white = scene.weather == "snowy"
    horizon = float(rng.uniform(-.05, .25))
    ground = {"mountains": (.40, .62, .30), "hills": (.45, .72, .30), "sea": (.10, .42, .72), "desert": (.90, .72, .42),
              "city": (.45, .45, .47)}[scene.place]
    ground = (.93, .95, .98) if white and scene.place != "sea" else dim(ground)
    sky = (.40, .70, .98) if gray == 0 else (.62, .65, .70) if not white else (.78, .82, .88)
    _sky_and_ground(canvas, sky, ground, horizon)
    with canvas.thing(1, .9):
        _landmarks(canvas, scene.place, dim, white, horizon, rng)
    _weather(canvas, scene.weather, rng)


def _landmarks(canvas, place, dim, white, horizon, rng):
    if place == "mountains":
        for x in (-.6 + rng.uniform(-.2, .1), .55 + rng.uniform(-.1, .2)):
            h, w = rng.uniform(.7, 1.0), rng.uniform(.55, .75)
            peak = (x, horizon - h)
            canvas.draw(polygon([(x - w, horizon + .02), peak, (x + w, horizon + .02)]), dim((.45, .42, .48)), "background")
            snow = polygon([(x - w * .33, horizon - h * .67), peak, (x + w * .33, horizon - h * .67)])
            canvas.draw(snow, (.97, .98, 1), "background")
    elif place == "hills":
        for x, r in zip(rng.uniform(-1, 1, 3), rng.uniform(.4, .7, 3)):
            canvas.draw(ellipse(x, horizon + .15, r, .42), (.90, .93, .97) if white else dim((.33, .62, .25)), "background")
    elif place == "sea":
        x, y = rng.uniform(-.4, .4), horizon
        canvas.draw(polygon([(x - .36, y + .12), (x + .36, y + .12), (x + .22, y + .3), (x - .22, y + .3)]), dim((.75, .2, .15)), "body")
        canvas.draw(polygon([(x - .04, y - .55), (x - .04, y + .1), (x + .34, y + .1)]), dim((.97, .97, .93)), "wing")
    elif place == "desert":
        for x in (rng.uniform(-.8, -.3), rng.uniform(.3, .8)):
            h = rng.uniform(.4, .6)
            arm = line([(x, horizon + .1), (x + .2, horizon + .05), (x + .2, horizon - .1)], .06)
            for shape in (line([(x, horizon + .25), (x, horizon + .25 - h)], .08), arm):
                canvas.draw(shape, dim((.18, .50, .22)), "trunk")
    else:
        for x in np.linspace(-.85, .85, 5) + rng.uniform(-.05, .05, 5):
            h, tone = rng.uniform(.45, 1.0), rng.uniform(.35, .7)
            canvas.draw(_block(x, horizon - h, .17, h + .05), dim((tone, tone * .9, tone * .95)), "wall")
            for y in np.arange(horizon - h + .14, horizon - .05, .22):
                canvas.draw(_block(x, y, .1, .09), (.98, .92, .6), "window", shade=0, edge=0)


def _block(x, y, half, height):
    """An upright rectangle around x, from y down."""
    return polygon([(x - half, y + height), (x - half, y), (x + half, y), (x + half, y + height)])


def _weather(canvas, weather, rng):
    sky = dict(shade=.15, edge=.1, truth=False)
    if weather == "sunny":
        canvas.draw(ellipse(float(rng.uniform(-.75, .75)), -.68, .2), (1, .9, .2), **sky)
    else:
        cloud = {"cloudy": (.93, .94, .96), "rainy": (.38, .40, .45), "snowy": (.88, .90, .94)}[weather]
        for x in (-.6, 0, .6) + rng.uniform(-.15, .15, 3):
            y = rng.uniform(-.85, -.65)
            for dx, r in ((-.2, .17), (.03, .24), (.23, .16)):
                canvas.draw(ellipse(x + dx, y, r * 1.25, r), cloud, **sky)
    if weather == "rainy":
        for x, y in zip(rng.uniform(-1, 1.1, 22), rng.uniform(-.5, .95, 22)):
            canvas.draw(line([(x, y), (x - .08, y + .2)], .022), (.80, .88, 1), shade=0, edge=0, truth=False)
    if weather == "snowy":
        for x, y in zip(rng.uniform(-1, 1, 26), rng.uniform(-.6, 1, 26)):
            canvas.draw(ellipse(x, y, .05), (1, 1, 1), shade=0, edge=0, truth=False)
