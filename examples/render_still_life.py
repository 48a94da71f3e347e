"""Render `photograph.jpg`: a still life to try networks with the classes of PASCAL VOC on.

A bottle of wine and a potted plant stand on a wooden table beside a window. A path tracer follows the light of the sky
and of the sun through glass, translucent leaves and a thin lens; an edge-avoiding à-trous wavelet removes the remaining
noise, and film grain is added. Nothing in the scene was downloaded: every shape and every texture is generated below,
from a fixed seed.

Run from the root of the repository; it takes a few minutes on two cores:

    python examples/render_still_life.py --out examples/photograph.jpg

(`--scale 0.4 --samples 16` for a preview). Script and image have the license of the project, Apache-2.0.
Lengths are in decimeters: x to the right, y into the picture, z up from the top of the table.
"""

from __future__ import annotations

import argparse
from math import cos, exp, floor, pi, sin, sqrt
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from raytracing import (
    Mesh,
    around,
    at_most,
    camera,
    cloud,
    cross,
    denoise,
    develop,
    dot,
    fast,
    hierarchy,
    move,
    noise,
    random,
    render,
    rounded,
    times,
    tracer,
    unit,
)

WOOD, GLASS, LABEL, FOIL, CLAY, SOIL, LEAF, STEM, WALL = range(9)
ROOM = ((-14.0, -24.0, -8.0), (16.0, 11.0, 17.0))
WINDOW = (-10.0, 4.0, 0.5, 12.0)  # from y to y and from z to z, in the wall at the left
SUN, SUNLIGHT = (-0.795, -0.25, 0.552), (3.4, 3.0, 2.45)  # the way to it, and its color
GLASS_ABSORBS, GLASS_SHADE = (6.5, 3.4, 8.0), (0.25, 0.42, 0.2)  # per decimeter; per surface that a shadow ray passes
EYE, TARGET, FOCUS, LENS, VIEW = (0.0, -12.0, 3.2), (0.0, 0.0, 1.45), 11.5, 0.11, 0.395  # VIEW: width at distance 1


def add_bottle(mesh, center):
    """Add a full bottle: one refracting and absorbing body of glass and wine, a label, a capsule over the neck."""
    body = [(0.001, 0.0), (0.38, 0.0), (0.42, 0.04), (0.42, 0.1), (0.42, 1.9), (0.42, 2.0), (0.385, 2.13)]
    body += [(0.26, 2.24), (0.165, 2.34), (0.155, 2.5), (0.152, 2.99), (0.001, 2.99)]
    mesh.lathe(rounded(body, 3), center, GLASS)
    mesh.lathe([(0.424, 0.48), (0.424, 1.53)], center, LABEL, start=-pi / 2 - 1.32, turn=2.4)
    capsule = [(0.172, 2.4), (0.163, 2.86), (0.163, 2.88), (0.188, 2.885), (0.188, 2.9), (0.188, 3.0), (0.001, 3.0)]
    mesh.lathe(rounded(capsule), center, FOIL)


def add_plant(mesh, center, rng, leaves=74, size=0.8):
    """Add a terracotta pot on its saucer, and leaves on stalks that bend under their weight."""
    center = np.array(center)
    saucer = [(0.001, 0.005), (0.85, 0.005), (0.85, 0.005), (0.98, 0.16), (0.93, 0.16), (0.82, 0.06), (0.001, 0.06)]
    pot = [(0.001, 0.061), (0.62, 0.061), (0.62, 0.061), (0.85, 1.2), (0.85, 1.2), (0.95, 1.21), (0.95, 1.22)]
    pot += [(0.98, 1.55), (0.98, 1.56), (0.89, 1.56), (0.88, 1.54), (0.84, 1.0)]
    for profile in (saucer, pot):
        mesh.lathe(rounded(profile) * size, center, CLAY)
    mesh.lathe(np.array([(0.87, 1.42), (0.001, 1.45)]) * size, center, SOIL)
    for number in range(leaves):
        age = (number + 0.5) / leaves  # the oldest hang lowest
        azimuth, steps = number * 2.39996 + rng.normal(0, 0.25), np.linspace(0, 1, 49)
        length = 1.45 + 0.4 * sin(pi * min(1, age * 1.15)) + rng.normal(0, 0.12)
        slope = 1.5 - age**0.8 + rng.normal(0, 0.1) - (0.75 + 1.15 * age + rng.normal(0, 0.15)) * steps**2.2
        out, rise = np.cumsum(np.cos(slope)) * length / 49, np.cumsum(np.sin(slope)) * length / 49
        out, swing = out + 0.3 * age, azimuth + rng.normal(0, 0.25) * steps**2
        spine = center + np.stack([out * np.cos(swing), out * np.sin(swing), rise + 1.43 * size], -1)
        ahead = np.gradient(spine, axis=0)
        ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
        side = np.cross(ahead, [0, 0, 1.0])
        side /= np.linalg.norm(side, axis=1, keepdims=True)
        above, roll = np.cross(side, ahead), rng.normal(0, 0.3)
        side, above = side * cos(roll) + above * sin(roll), above * cos(roll) - side * sin(roll)
        ring, stalk = np.linspace(0, 2 * pi, 8)[None, :, None], np.arange(0, 29, 4)
        thick = (0.026 - 0.012 * steps[stalk])[:, None, None]
        tube = thick * (side[stalk, None] * np.cos(ring) - above[stalk, None] * np.sin(ring))
        mesh.grid(spine[stalk, None] + tube, STEM)
        y, x = np.linspace(0, 1, 27)[:, None], np.linspace(-1, 1, 9)[None]  # along the blade and across
        width = ((0.2 + 0.08 * rng.random()) * np.sin(pi * y**0.8) ** 0.75 * (1 - 0.25 * y))[..., None]
        height = (0.3 + 0.25 * rng.random() + 0.05 * np.sin(y * 22 + rng.random() * 6 + x * 2)) * x**2
        blade = spine[22:, None] + width * (side[22:, None] * x[..., None] + above[22:, None] * height[..., None])
        shade = floor(rng.random() * 1000)  # a random number per leaf
        mesh.grid(blade, LEAF, np.stack(np.broadcast_arrays(x * 0.49 + 0.5 + shade, y), -1))


def draw_label(paper=(243, 235, 214), ink=(38, 30, 30), accent=(128, 28, 38)):
    """Draw the label of the bottle: (512, 512, 3), linear light, from the bottom up."""
    image = Image.new("RGB", (512, 512), paper)
    draw = ImageDraw.Draw(image)
    draw.rectangle((14, 14, 497, 497), outline=accent, width=5)
    for place in range(36):  # kernels of 3 x 3 at four rates
        ring, i, j = place // 9, place // 3 % 3, place % 3
        x, y, r = 256 + (j - 1) * (14 + 12 * ring), 110 + (i - 1) * (14 + 12 * ring), 4 + ring * 0.4
        draw.ellipse((x - r, y - r, x + r, y + r), fill=accent if ring % 2 else ink)
    lines = (("ATROUS", 84, 245, ink), ("rate 2 · rate 4 · rate 8", 28, 312, accent), ("2017", 56, 425, accent))
    for text, size, y, color in (*lines, ("GRAND CRU DE CONVOLUTION", 23, 362, ink)):
        draw.text((256, y), text, fill=color, font=ImageFont.load_default(size), anchor="mm")
    return (np.asarray(image)[::-1] / 255.0) ** 2.2


def build_scene():
    """Build the tree of triangles, with the label of the bottle appended."""
    mesh = Mesh()
    mesh.grid(np.array([[(-9.5, -5.5, 0), (9.5, -5.5, 0)], [(-9.5, 5.2, 0), (9.5, 5.2, 0)]], float), WOOD)
    add_bottle(mesh, (-1.08, -0.4, 0.004))
    add_plant(mesh, (0.92, 0.35, 0.0), np.random.default_rng(1))
    return (*hierarchy(mesh), draw_label())


@fast
def passing(k, u, v, shadow, tree):
    """Compute the transmittance of a triangle: shadow rays pass through glass and lose some light."""
    return GLASS_SHADE if shadow and tree[5][k] == GLASS else (0.0, 0.0, 0.0)


trace = tracer(passing)


@fast
def sky(y, z):
    """Compute the light through the window at a position in its wall: none at the wall or a bar."""
    a, b = (y - WINDOW[0]) / (WINDOW[1] - WINDOW[0]), (z - WINDOW[2]) / (WINDOW[3] - WINDOW[2])
    if a < 0 or a > 1 or b < 0 or b > 1 or abs(a * 3 % 1 - 0.5) > 0.475 or abs(b * 2 % 1 - 0.5) > 0.475:
        return (0.0, 0.0, 0.0)
    if b < 0.2 + 0.1 * cloud(y * 0.6, 0.0, 7.0):  # trees across the road
        return (1.2, 1.5, 0.9)
    return (5.2 + 1.6 * b, 6.0 + 1.4 * b, 7.0 + 1.2 * b)


@fast
def surface(material, p, u, v, label):
    """Return diffuse color, reflectance at normal incidence, roughness, transmitted fraction, bump height."""
    if material == WOOD:
        plank = floor((p[1] + 5.2) / 1.5)
        x, y = p[0] + 7.3 * plank, p[1] + 0.35 * noise(0.45 * p[0], 1.1 * p[1], plank)
        fine = cloud(1.3 * x, 26 * y, plank)
        s = (0.5 + 0.75 * cloud(0.16 * x, 3.4 * y, 9 * plank)) * (0.85 + 0.3 * noise(plank * 3.7, 0.5, 0.5))
        s = max(0.12, s * (0.8 + 0.36 * fine) - 0.8 * max(0.0, noise(2.2 * x, 60 * y, 9.0) - 0.72))
        if (p[1] + 5.2) % 1.5 < 0.014:
            s *= 0.25
        return (0.30 * s, 0.165 * s**1.15, 0.083 * s**1.3), 0.04, 0.16 + 0.2 * fine, 0.0, 0.035
    if material == LABEL:
        c = label[min(511, int(v * 512)), min(511, int(u * 512))]
        return (0.88 * c[0], 0.88 * c[1], 0.88 * c[2]), 0.03, 0.5, 0.0, 0.02
    if material == CLAY:
        s = 0.7 + 0.5 * cloud(2.2 * p[0], 2.2 * p[1], 3.2 * p[2]) + 0.12 * noise(30 * p[0], 30 * p[1], 60 * p[2])
        lime = max(0.0, cloud(1.7 * p[0] + 5, 1.7 * p[1], 2.6 * p[2]) - 0.52) * 1.2
        return (0.47 * s + 0.25 * lime, 0.2 * s + 0.3 * lime, 0.108 * s + 0.3 * lime), 0.02, 0.6, 0.0, 0.12
    if material == LEAF:
        shade = floor(u)
        side, hue = abs(u - shade - 0.5) * 2, shade % 37 / 37
        ribs = abs((v * 13 - side * 1.6) % 1 - 0.5) * 2
        vein = max(0.8 - 16 * side / (1.3 - v), 0.22 * max(0.0, (ribs - 0.86) / 0.14) * (1 - side), 0.0)
        s = (0.65 + 0.6 * (shade % 101) / 101) * (0.85 + 0.3 * cloud(6 * p[0], 6 * p[1], 6 * p[2]))
        c = (0.08 + 0.09 * hue + 0.16 * vein, 0.23 + 0.07 * hue + 0.17 * vein, 0.035 + 0.01 * hue + 0.06 * vein)
        return times(c, (s, s, s)), 0.045, 0.3, 0.22, 0.1
    if material == SOIL:
        s = 0.3 + 1.1 * cloud(14 * p[0], 14 * p[1], 14 * p[2])
        return (0.07 * s, 0.045 * s, 0.03 * s), 0.02, 0.7, 0.0, 0.6
    if material == FOIL:
        return (0.055, 0.012, 0.018), 0.1, 0.28, 0.0, 0.06
    if material == STEM:
        return (0.16, 0.26, 0.07), 0.04, 0.4, 0.0, 0.0
    s = 0.93 + 0.12 * cloud(0.5 * p[0], 0.5 * p[1], 0.5 * p[2])
    if p[2] < ROOM[0][2] + 1e-3:
        return (0.2 * s, 0.14 * s, 0.09 * s), 0.04, 0.3, 0.0, 0.0
    return (0.66 * s, 0.66 * s, 0.62 * s), 0.0, 1.0, 0.0, 0.02


@fast
def direct(p, n, state, tree, stack):
    """Compute the direct light at a position from the sky in the window and from the sun, over pi."""
    wide, tall, total = WINDOW[1] - WINDOW[0], WINDOW[3] - WINDOW[2], (0.0, 0.0, 0.0)
    y, z = WINDOW[0] + wide * random(state), WINDOW[2] + tall * random(state)
    pane = (ROOM[0][0] - p[0], y - p[1], z - p[2])
    way, square = unit(pane), dot(pane, pane)
    shine = times(sky(y, z), (1.0, 1.0, 1.0), dot(way, n) * -way[0] * wide * tall / (square * pi))
    if shine[0] > 0:
        _, k, _, _, light = trace(p, way, sqrt(square) - 1e-3, True, tree, stack)
        total = move(total, 1.0 if k < 0 else 0.0, times(light, shine))
    way = unit(move(SUN, 0.012, (random(state) - 0.5, random(state) - 0.5, random(state) - 0.5)))
    far = (ROOM[0][0] - p[0]) / way[0]
    if dot(way, n) > 0 and sky(p[1] + far * way[1], p[2] + far * way[2])[0] > 0:
        _, k, _, _, light = trace(p, way, far - 1e-3, True, tree, stack)
        total = move(total, dot(way, n) if k < 0 else 0.0, times(light, SUNLIGHT))
    return total


@fast
def follow(o, d, state, tree, stack, guide):
    """Compute the light along a ray; `guide` receives color and normal of its first hit."""
    got, weight, back = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (-1.0, -1.0, -1.0)
    scattered, chance = False, True  # chance: the window was not sampled yet, so hitting it counts
    for bounce in range(9):
        t, k, u, v, _ = trace(o, d, 1e9, False, tree, stack)
        material, m, g, a, b = WALL, max(k, 0), (0.0, 0.0, 0.0), 0.0, 0.0
        if k < 0:
            for i in range(3):
                wall = ((ROOM[1][i] if d[i] > 0 else ROOM[0][i]) - o[i]) / (d[i] + 1e-30)
                if wall < t:
                    t, s = wall, -1.0 if d[i] > 0 else 1.0
                    g = (s if i == 0 else 0.0, s if i == 1 else 0.0, s if i == 2 else 0.0)
            p, n = move(o, t, d), g
            shine = sky(p[1], p[2])
            if g[0] > 0 and shine[0] > 0:
                if chance:
                    got = move(got, 1.0, at_most(times(weight, shine), 1.5 if scattered else 9.0))
                break
        else:
            p, w, e, c, material = move(o, t, d), 1 - u - v, tree[2][m], tree[3][m], tree[5][m]
            g = unit(cross((e[3], e[4], e[5]), (e[6], e[7], e[8])))
            n = unit(move(move((w * c[0, 0], w * c[0, 1], w * c[0, 2]), u, c[1]), v, c[2]))
            a = w * tree[4][m, 0, 0] + u * tree[4][m, 1, 0] + v * tree[4][m, 2, 0]
            b = w * tree[4][m, 0, 1] + u * tree[4][m, 1, 1] + v * tree[4][m, 2, 1]
        inside = dot(d, g) > 0
        if inside:
            n, g = times(n, back), times(g, back)
        color, base, rough, through, bumps = (0.5, 0.5, 0.5), 0.0, 0.0, 0.0, 0.0
        if material != GLASS:
            color, base, rough, through, bumps = surface(material, p, a, b, tree[6])
            f = 18.0 if material == WOOD else 9.0
            x, y = noise(f * p[0], f * p[1], f * p[2]), noise(f * p[0], f * p[1] + 50, f * p[2])
            n = unit(move(n, 2 * bumps, (x - 0.5, y - 0.5, x * y - 0.25)))
        if bounce == 0:
            for i in range(3):
                guide[i], guide[i + 3] = guide[i] + color[i], guide[i + 3] + n[i]
        cosine = max(1e-4, -dot(d, n))
        if material == GLASS:
            ratio, mirrored = 1.5 if inside else 1 / 1.5, 1.0
            if inside:
                lost = times(GLASS_ABSORBS, (-t, -t, -t))
                weight = times(weight, (exp(lost[0]), exp(lost[1]), exp(lost[2])))
            under = 1 - ratio * ratio * (1 - cosine * cosine)
            if under > 0:  # Fresnel
                beyond = sqrt(under)
                x = (cosine - ratio * beyond) / (cosine + ratio * beyond)
                y = (ratio * cosine - beyond) / (ratio * cosine + beyond)
                mirrored = (x * x + y * y) / 2
            if random(state) < mirrored:
                o, d, chance = move(p, 1e-4, g), unit(move(d, 2 * cosine, n)), True
            else:
                o, d = move(p, -1e-4, g), unit(move(times(d, (ratio, ratio, ratio)), ratio * cosine - sqrt(under), n))
            continue
        if base > 0 and random(state) < base + (1 - base) * (1 - cosine) ** 5 * (1 - rough) ** 2:
            x = random(state)  # the sheen of varnish, wax or foil: a facet (GGX) mirrors
            c2 = (1 - x) / (1 + (rough**4 - 1) * x)
            facet = around(n, sqrt(max(0.0, 1 - c2)), 2 * pi * random(state), sqrt(c2))
            o, d, chance = move(p, 1e-4, g), unit(move(d, -2 * dot(d, facet), facet)), True
            weight = times(weight, (1.0, 0.5, 0.45)) if material == FOIL else weight
        else:
            if random(state) < through:
                n, g, color = times(n, back), times(g, back), times(color, (1.5, 1.35, 0.6))
            o, weight = move(p, 1e-4, g), times(weight, color)
            got = move(got, 1.0, at_most(times(weight, direct(o, n, state, tree, stack)), 3.0 if scattered else 9.0))
            x, chance, scattered = random(state), False, True
            d = around(n, sqrt(x), 2 * pi * random(state), sqrt(1 - x))
            alive = min(0.95, max(weight[0], weight[1], weight[2]) * 1.5) if bounce > 1 else 1.0
            if random(state) > alive:
                break
            weight = times(weight, (1.0, 1.0, 1.0), 1 / alive)
        if dot(d, g) <= 0:
            break
    return got


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("photograph.jpg"))
    parser.add_argument("--scale", type=float, default=1.0, help="of 880 x 704")
    parser.add_argument("--samples", type=int, default=160, help="paths per pixel")
    arguments = parser.parse_args()
    shape = (2 * round(352 * arguments.scale), round(880 * arguments.scale))
    light, guides = render(camera(follow, EYE, TARGET, FOCUS, LENS, VIEW), shape, arguments.samples, build_scene())
    pixels = develop(denoise(light, guides), np.random.default_rng(8))
    Image.fromarray(pixels).save(arguments.out, quality=90, optimize=True)


if __name__ == "__main__":
    main()
