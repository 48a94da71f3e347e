"""Render `street.jpg`: a street in an imaginary town, seen from a car that drives on the left.

Terraced houses, parked and oncoming cars, trees, lamp posts, railings and people consist of triangles, lit by a pale
sky and a hazy sun. The image takes twenty light paths per pixel, an edge-avoiding wavelet, a small lens, and grain.
Nothing in the scene was downloaded: every shape and every texture is generated below, from a fixed seed.

Run from the root of the repository; it takes about a minute on two cores:

    python examples/render_street.py --out examples/street.jpg

(`--scale 0.5 --samples 4` for a preview). Script and image have the license of the project, Apache-2.0.
Lengths are in meters: x to the right from the middle of the road, y ahead, z up from the road.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from math import cos, exp, floor, pi, sin, sqrt
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from raytracing import (
    Mesh,
    around,
    at_most,
    camera,
    cloud,
    denoise,
    develop,
    dot,
    fast,
    hierarchy,
    move,
    noise,
    random,
    render,
    times,
    tracer,
    unit,
)

GROUND, PAVING, KERB, WALL, ROOF, WINDOW, DOOR, STONE, BARK, LEAF, METAL, SIGN, CLOTH, SKIN, TYRE, CAR = range(16)
LEFT, RIGHT, LEFT_FRONT, RIGHT_FRONT, END = -4.7, 3.6, -7.6, 6.3, 118.0  # kerbs, fronts of houses, the far end
EYE, TARGET, VIEW = (-1.35, 0.0, 1.35), (-0.95, 30.0, 0.55), 1.02
SUN, SUNLIGHT, AMBIENT = (-0.455, -0.43, 0.78), (2.6, 2.4, 2.05), (0.36, 0.38, 0.42)
PAINTS = (
    (0.42, 0.44, 0.46),
    (0.035, 0.06, 0.16),
    (0.38, 0.025, 0.03),
    (0.03, 0.035, 0.04),
    (0.72, 0.73, 0.72),
    (0.09, 0.16, 0.13),
)
CLOTHES = ((0.05, 0.06, 0.1), (0.3, 0.05, 0.05), (0.03, 0.03, 0.035), (0.45, 0.42, 0.36), (0.75, 0.85, 0.08))


class Street(Mesh):
    """Triangles with three texture coordinates: two on the sheet and a random number, or a position in a car."""

    seed = 0.0

    def grid(self, points, material, uv=None):
        points = np.asarray(points, float)
        if uv is None:
            u, v = np.meshgrid(np.linspace(0, 1, points.shape[1]), np.linspace(0, 1, points.shape[0]))
            uv = np.stack([u, v, np.full_like(u, self.seed)], -1)
        super().grid(points, material, uv)

    def sheet(self, a, b, c, d, material):
        """Add a quadrangle: its bottom from a to b, its top from c to d."""
        self.grid([[a, b], [c, d]], material)

    def box(self, low, high, material):
        (a, b, c), (d, e, f) = low, high
        self.sheet((a, b, c), (d, b, c), (a, b, f), (d, b, f), material)
        self.sheet((a, e, c), (d, e, c), (a, e, f), (d, e, f), material)
        self.sheet((a, b, c), (a, e, c), (a, b, f), (a, e, f), material)
        self.sheet((d, b, c), (d, e, c), (d, b, f), (d, e, f), material)
        self.sheet((a, b, f), (d, b, f), (a, e, f), (d, e, f), material)

    def tube(self, spine, radii, material, sides=8):
        """Add a round bar along a polyline."""
        spine = np.asarray(spine, float)
        ahead = np.gradient(spine, axis=0)
        ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
        helper = np.array([0.0, 1.0, 0.0] if abs(ahead[:, 2]).mean() > 0.7 else [0.0, 0.0, 1.0])
        side = np.cross(ahead, helper)
        side /= np.linalg.norm(side, axis=1, keepdims=True) + 1e-9
        above, turn = np.cross(side, ahead), np.linspace(0, 2 * pi, sides + 1)[None, :, None]
        radii = np.broadcast_to(np.asarray(radii, float), (len(spine),))[:, None, None]
        self.grid(spine[:, None] + radii * (side[:, None] * np.cos(turn) + above[:, None] * np.sin(turn)), material)

    def ball(self, center, radius, material, stretch=1.0):
        turn = np.linspace(-pi / 2 + 0.01, pi / 2 - 0.01, 9)
        profile = np.stack([radius * np.cos(turn), radius * stretch * np.sin(turn)], -1)
        self.lathe(profile, center, material, segments=12)


def add_house(mesh, place, start, width, rng):
    """Add a terraced house; `place` maps coordinates along the front, into the house and up to the street's."""
    seed, storey = floor(rng.random() * 97) + 0.5, rng.uniform(2.75, 3.0)
    mesh.seed, storeys = seed, 2 + (rng.random() < 0.3)
    eaves, doors_first, slim = storey * storeys + 0.25, rng.random() < 0.5, rng.uniform(0.5, 0.62)

    def block(low, high, material):
        corners = np.array([place(*low), place(*high)])
        mesh.box(corners.min(axis=0), corners.max(axis=0), material)

    openings = [(0.35, 1.35, 0.15, 2.35, DOOR), (width - 1.5 - 2 * slim, width - 1.0, 0.85, 2.35, WINDOW)]
    if not doors_first:
        openings = [(width - b, width - a, c, d, kind) for a, b, c, d, kind in openings]
    for floor_ in range(1, storeys):
        for center in (0.27 * width, 0.73 * width):
            base = floor_ * storey + 0.8
            openings.append((center - slim, center + slim, base, base + 1.5, WINDOW))
    across = sorted({0.0, width, *(edge for o in openings for edge in o[:2])})
    upward = sorted({0.0, eaves, *(edge for o in openings for edge in o[2:4])})
    for a, b in pairwise(across):
        for c, d in pairwise(upward):
            x, z = (a + b) / 2, (c + d) / 2
            if not any(o[0] < x < o[1] and o[2] < z < o[3] for o in openings):
                corners = [place(start + i, 0.0, k) for k in (c, d) for i in (a, b)]
                mesh.sheet(*corners, WALL)
    for a, b, c, d, kind in openings:
        mesh.seed, deep = floor(rng.random() * 997) + 0.5, 0.13
        a, b = start + a, start + b
        mesh.sheet(*(place(i, deep, k) for k in (c, d) for i in (a, b)), kind)
        mesh.seed = seed
        for i in (a, b):
            mesh.sheet(*(place(i, j, k) for k in (c, d) for j in (0, deep)), WALL)
        for k in (c, d):
            mesh.sheet(*(place(i, j, k) for j in (0, deep) for i in (a, b)), STONE)
        block((a - 0.12, -0.05, d), (b + 0.12, 0.02, d + 0.2), STONE)
        if kind == WINDOW:
            block((a - 0.08, -0.1, c - 0.1), (b + 0.08, 0.05, c), STONE)
        else:
            block((a - 0.1, -0.35, 0.0), (b + 0.1, 0.1, c), STONE)
    mesh.seed, end, depth, rise = seed, start + width, 8.5, rng.uniform(2.6, 3.2)
    for slope in ((-0.28, depth / 2), (depth, depth / 2)):
        up = [eaves + min(j, depth - j) * rise / (depth / 2) for j in slope]
        mesh.sheet(*(place(i, j, k) for j, k in zip(slope, up, strict=True) for i in (start, end)), ROOF)
    for i in (start, end):  # gables
        mesh.sheet(place(i, 0, 0), place(i, depth, 0), place(i, 0, eaves), place(i, depth, eaves), WALL)
        ridge = place(i, depth / 2, eaves + rise)
        mesh.sheet(place(i, 0, eaves), place(i, depth, eaves), ridge, ridge, WALL)
    block((start, -0.3, eaves - 0.22), (end, -0.2, eaves - 0.1), METAL)  # the gutter, and a pipe down from it
    mesh.tube([place(end - 0.12, -0.07, 0.1), place(end - 0.12, -0.07, eaves - 0.15)], 0.045, METAL, 6)
    x, y, top = end - 0.45, depth / 2, eaves + rise + 1.1
    block((x - 0.45, y - 0.5, eaves + 0.5 * rise), (x + 0.45, y + 0.5, top), WALL)
    block((x - 0.5, y - 0.55, top), (x + 0.5, y + 0.55, top + 0.12), STONE)
    for j in (-0.3, 0.0, 0.3):
        center = place(x, y + j, top + 0.1)
        mesh.lathe([(0.11, 0.0), (0.09, 0.4), (0.12, 0.42), (0.12, 0.48), (0.01, 0.48)], center, ROOF, segments=8)


def add_terrace(mesh, place, start, end, rng):
    while start < end:
        width = rng.uniform(4.8, 6.0)
        add_house(mesh, place, start, width, rng)
        start += width


def add_tree(mesh, foot, height, rng, leaves=3, depth=4):
    """Add a tree that branches repeatedly; leaves are cut out of cards around its twigs."""
    mesh.seed = rng.random()

    def grow(start, way, length, radius, level):
        steps = np.linspace(0, 1, 4)[:, None]
        bend = rng.normal(0, 0.16, 3)
        spine = start + length * (way * steps + bend * steps**2)
        mesh.tube(spine, radius * (1 - 0.4 * steps[:, 0]), BARK, 9 - level if level < 5 else 4)
        if level >= depth - 1:
            for _ in range(leaves):
                center = spine[rng.integers(1, 4)] + rng.normal(0, 0.045 * height, 3)
                a, b = np.linalg.qr(rng.normal(0, 1, (3, 2)))[0].T * rng.uniform(0.05, 0.085) * height
                mesh.seed = floor(rng.random() * 997) + 0.5
                mesh.sheet(center - a - b, center + a - b, center - a + b, center + a + b, LEAF)
        if level < depth:
            turn = rng.random() * 2 * pi
            for child in range(3 + (level == 0)):
                out, lean = turn + child * 2 * pi / (3 + (level == 0)) + rng.normal(0, 0.3), rng.uniform(0.45, 0.8)
                side = np.array([cos(out), sin(out), 0.25])
                new = way * cos(lean) + side * sin(lean)
                place = spine[-1] if child else spine[-1] * 0.8 + spine[-2] * 0.2
                grow(place, new / np.linalg.norm(new), length * rng.uniform(0.6, 0.8), radius * 0.58, level + 1)

    grow(np.array(foot, float), np.array([0, 0, 1.0]), height * 0.31, height * 0.024, 0)


def add_hedge(mesh, low, high, rng):
    """Add a hedge of cards of leaves."""
    low, high = np.array(low), np.array(high)
    for _ in range(int(np.prod(high - low) * 26)):
        a, b = np.linalg.qr(rng.normal(0, 1, (3, 2)))[0].T * rng.uniform(0.16, 0.26)
        center, mesh.seed = rng.uniform(low, high), floor(rng.random() * 997) + 0.5
        mesh.sheet(center - a - b, center + a - b, center - a + b, center + a + b, LEAF)


def add_car(mesh, x, y, paint, towards=False, scale=(1.0, 1.0, 1.0)):
    """Add a hatchback with its rear at y, or its front if it is oncoming; `car` colors windows and lights."""
    profile = [(0.0, 0.5), (0.05, 0.68), (0.3, 0.8), (1.05, 0.96), (1.2, 1.0), (1.95, 1.41), (2.3, 1.47), (3.1, 1.45)]
    profile += [(3.6, 1.34), (3.92, 0.98), (4.0, 0.9), (4.04, 0.5)]
    plan = [(0.0, 0.66), (0.12, 0.76), (0.45, 0.83), (1.2, 0.855), (3.0, 0.855), (3.7, 0.82), (3.95, 0.76), (4.04, 0.7)]
    along = np.unique(np.concatenate([np.linspace(0, 4.04, 40), [p[0] for p in profile]]))
    kernel = np.array([0.25, 0.5, 0.25])
    top = np.convolve(np.pad(np.interp(along, *np.transpose(profile)), 1, "edge"), kernel, "valid")
    half = np.interp(along, *np.transpose(plan))
    under = 0.24 + 0.12 * np.clip(np.abs(along - 2.02) - 1.75, 0, 1)
    rings = []
    for t, w, low in zip(top, half, under, strict=True):
        r = min(0.09, (t - low) / 3)
        up = np.linspace(low, t - r, 12)
        wide = w * np.interp(up, [0.2, 0.35, 0.6, 0.93, 1.47], [0.93, 0.985, 1.0, 0.97, 0.74])
        turn = np.linspace(0, pi / 2, 6)[1:]
        side = np.stack([np.r_[wide, wide[-1] - r + r * np.cos(turn)], np.r_[up, t - r + r * np.sin(turn)]], -1)
        side = np.concatenate([side, [(side[-1, 0] * 0.5, t + 0.012), (0.0, t + 0.016)]])
        rings.append(np.concatenate([side * (-1, 1), side[-2::-1]]))
    rings = np.array(rings)
    local = np.stack([rings[..., 0], np.broadcast_to(along[:, None], rings.shape[:2]), rings[..., 1]], -1)
    front, tail = local[:1] * (0.0, 1, 1), local[-1:] * (0.0, 1, 1)
    front[..., 1], tail[..., 1] = -0.03, tail[..., 1] + 0.01
    local = np.concatenate([front, local[:1] * (0.6, 1, 1), local, tail])

    def put(points):
        points = np.asarray(points, float) * scale
        if towards:
            return points * (-1, 1, 1) + (x, y, 0)
        return points * (1, -1, 1) + (x, y + 4.04 * scale[1], 0)

    mesh.grid(put(local), CAR + paint, local)
    for side in (-1, 1):
        for middle in (0.78, 3.25):
            turn, out = np.linspace(0, 2 * pi, 25)[None], np.array([0.6, 0.84, 0.865, 0.865, 0.85, 0.001])[:, None]
            radius = np.array([0.3, 0.3, 0.27, 0.2, 0.19, 0.0])[:, None]
            ring = (side * np.maximum(out, 0.6), middle + radius * np.cos(turn), 0.3 + radius * np.sin(turn))
            points = np.stack(np.broadcast_arrays(*ring), -1)
            points[-1, :, 0] = side * 0.86
            hub = np.stack(np.broadcast_arrays(np.cos(turn), np.sin(turn), radius), -1)
            mesh.grid(put(points), TYRE, hub)
        mirror = [(side * 0.84, 1.32, 0.93), (side * 1.0, 1.45, 1.05)]
        corners = np.array([put(mirror[0]), put(mirror[1])])
        mesh.seed = 2.5
        mesh.box(corners.min(axis=0), corners.max(axis=0), CLOTH)
    floor_ = np.array([put((-0.7, 0.15, 0.25)), put((0.7, 3.9, 0.4))])
    mesh.seed = 2.5
    mesh.box(floor_.min(axis=0), floor_.max(axis=0), CLOTH)


def add_lamp(mesh, x, y, reach, height=7.5):
    """Add a lamp post with an arm over the road."""
    mesh.seed = 0.5
    mesh.lathe([(0.11, 0.0), (0.11, 1.1), (0.08, 1.2), (0.06, height)], (x, y, 0.1), METAL, segments=12)
    arm = [(x, y, height), (x, y, height + 0.25), (x + 0.3 * reach, y, height + 0.45), (x + reach, y, height + 0.5)]
    mesh.tube(arm, 0.035, METAL, 6)
    far = sorted((x + 0.85 * reach, x + 1.35 * reach))
    mesh.box((far[0], y - 0.12, height + 0.44), (far[1], y + 0.12, height + 0.56), STONE)


def add_sign(mesh, x, y, kind, height=2.5, radius=0.34):
    """Add a gray pole with a round or a triangular sign."""
    mesh.seed = 0.5
    mesh.lathe([(0.045, 0.0), (0.045, height + 0.3), (0.01, height + 0.31)], (x, y, 0.1), METAL, segments=10)
    turn, rings = np.linspace(0, 2 * pi, 37)[None], np.array([1.0, 0.0])[:, None]
    edge = radius if kind == 0 else 1.15 * radius * 0.5 / np.cos((turn + pi / 6) % (2 * pi / 3) - pi / 3)
    points = np.broadcast_arrays(x + rings * edge * np.cos(turn), y - 0.06, height + rings * edge * np.sin(turn))
    ratio = np.broadcast_to(edge / radius if kind else 1.0, turn.shape) * rings
    uv = np.stack(np.broadcast_arrays(ratio * np.cos(turn), ratio * np.sin(turn), kind + rings * 0.999), -1)
    mesh.grid(np.stack(points, -1), SIGN, uv)


def add_railing(mesh, x, start, end):
    """Add an iron fence along the pavement, on a low wall."""
    mesh.seed = 20.5
    mesh.box((x - 0.12, start, 0.1), (x + 0.12, end, 0.42), WALL)
    mesh.box((x - 0.15, start, 0.42), (x + 0.15, end, 0.48), STONE)
    mesh.seed = 2.5
    for z in (0.62, 1.32):
        mesh.box((x - 0.02, start, z), (x + 0.02, end, z + 0.04), METAL)
    for y in np.arange(start, end, 0.16):
        mesh.box((x - 0.013, y, 0.48), (x + 0.013, y + 0.026, 1.5), METAL)
    for y in np.arange(start, end + 0.1, 2.56):
        mesh.box((x - 0.05, y - 0.05, 0.48), (x + 0.05, y + 0.05, 1.62), METAL)


def add_person(mesh, x, y, cloth, ground=0.12, stride=0.22, facing=1.0):
    """Add a pedestrian who walks along the pavement."""
    at = np.array([x, y, ground])
    mesh.seed = 2.5
    for side in (-1, 1):
        knee, foot = (side * 0.09, side * 0.45 * stride + 0.05 * facing, 0.48), (side * 0.1, side * stride, 0.06)
        mesh.tube(np.add(at, [(side * 0.09, 0, 0.9), knee, foot]), [0.1, 0.075, 0.055], CLOTH)
        mesh.tube(np.add(at, [foot, (side * 0.1, side * stride + 0.2 * facing, 0.05)]), 0.05, CLOTH)
    mesh.seed = cloth + 0.5
    profile = [(0.15, 0.78), (0.18, 0.9), (0.165, 1.1), (0.2, 1.35), (0.18, 1.45), (0.07, 1.5), (0.01, 1.52)]
    mesh.lathe(profile, at, CLOTH, segments=16)
    for side in (-1, 1):
        elbow, hand = (side * 0.27, -side * 0.1, 1.12), (side * 0.25, -side * 0.16 + 0.12 * facing, 0.88)
        mesh.tube(np.add(at, [(side * 0.18, 0, 1.42), elbow, hand]), [0.065, 0.055, 0.04], CLOTH)
        mesh.ball(np.add(at, hand), 0.05, SKIN)
    mesh.tube(np.add(at, [(0, 0, 1.45), (0, 0, 1.6)]), 0.055, SKIN)
    mesh.ball(np.add(at, (0, 0.02 * facing, 1.66)), 0.1, SKIN, 1.25)
    mesh.seed = 2.5
    mesh.ball(np.add(at, (0, -0.02 * facing, 1.69)), 0.105, CLOTH, 1.1)


def add_cyclist(mesh, x, y, cloth):
    """Add a bicyclist, seen from behind."""
    at, turn = np.array([x, y, 0.0]), np.linspace(0, 2 * pi, 29)
    mesh.seed = 2.5
    for middle in (0.0, 1.05):
        rim = np.stack([0 * turn, middle + 0.33 * np.cos(turn), 0.34 + 0.33 * np.sin(turn)], -1)
        mesh.tube(np.add(at, rim), 0.022, TYRE, 6)
        hub = np.add(at, (0, middle, 0.34))
        for spoke in np.arange(0, pi, pi / 7):
            end = 0.33 * np.array([0, cos(spoke), sin(spoke)])
            mesh.tube([hub - end, hub + end], 0.004, METAL, 3)
    mesh.seed = 5.5
    for bar in (((0, 0, 0.34), (0, 0.42, 0.3), (0, 0.3, 0.9)), ((0, 0, 0.34), (0, 0.33, 0.8), (0, 0.85, 0.85))):
        mesh.tube(np.add(at, bar), 0.02, CLOTH, 6)
    handle = ((-0.28, 0.78, 1.04), (0.28, 0.78, 1.04))
    for bar in (((0, 0.42, 0.3), (0, 0.88, 0.78)), ((0, 0.85, 1.02), (0, 1.05, 0.34)), handle):
        mesh.tube(np.add(at, bar), 0.02, METAL, 6)
    mesh.seed = 2.5
    mesh.box(np.add(at, (-0.08, 0.15, 0.93)), np.add(at, (0.08, 0.42, 0.99)), CLOTH)
    for side, foot, knee in ((-1, 0.2, 0.62), (1, 0.46, 0.8)):
        leg = [(side * 0.09, 0.28, 1.0), (side * 0.12, 0.62, knee), (side * 0.11, 0.42, foot)]
        mesh.tube(np.add(at, leg), [0.1, 0.075, 0.05], CLOTH)
        mesh.tube(np.add(at, [leg[2], (side * 0.11, 0.62, foot - 0.03)]), 0.045, CLOTH)
    mesh.seed = cloth + 0.5
    back = [(0, 0.24, 0.92), (0, 0.3, 1.12), (0, 0.46, 1.38), (0, 0.52, 1.5)]
    mesh.tube(np.add(at, back), [0.15, 0.17, 0.2, 0.1], CLOTH, 14)
    for side in (-1, 1):
        arm = [(side * 0.18, 0.46, 1.42), (side * 0.27, 0.58, 1.2), (side * 0.25, 0.78, 1.06)]
        mesh.tube(np.add(at, arm), [0.065, 0.05, 0.04], CLOTH)
    mesh.ball(np.add(at, (0, 0.6, 1.6)), 0.1, SKIN, 1.2)
    mesh.seed = 1.5
    mesh.ball(np.add(at, (0, 0.59, 1.65)), 0.12, CLOTH, 0.9)


def build_scene():
    """Build everything along the street."""
    mesh, rng = Street(), np.random.default_rng(3)
    mesh.sheet((-400, -40, 0), (400, -40, 0), (-400, 900, 0), (400, 900, 0), GROUND)
    for edge, back in ((LEFT, -60.0), (RIGHT, 60.0)):
        side = 1 if back > 0 else -1
        near, far = sorted((edge, edge + 0.15 * side)), sorted((edge + 0.15 * side, back))
        mesh.box((near[0], -20, 0), (near[1], END - 14, 0.12), KERB)
        mesh.box((far[0], -20, 0), (far[1], END - 14, 0.118), PAVING)
    mesh.box((-60, END - 7, 0), (60, END + 20, 0.12), PAVING)
    add_terrace(mesh, lambda a, d, z: (LEFT_FRONT - d, a, z), 3.0, END - 24, rng)
    add_terrace(mesh, lambda a, d, z: (RIGHT_FRONT + d, a, z), 33.0, END - 24, rng)
    add_terrace(mesh, lambda a, d, z: (a, END + d, z), -44.0, 44.0, rng)
    add_terrace(mesh, lambda a, d, z: (a, 52.0 - 0.0 + d, z), 26.0, 44.0, rng)
    add_railing(mesh, 6.35, 6.0, 32.5)
    add_hedge(mesh, (7.0, 8.0, 0.1), (7.8, 32.0, 1.5), rng)
    for x, y, height in ((9.2, 15.5, 7.5), (10.8, 21.5, 9.5), (9.3, 28.0, 8.0), (15.0, 33.0, 11.0)):
        add_tree(mesh, (x, y, 0.1), height, rng, leaves=5)
    for x, y, height in ((4.6, 47.0, 7.0), (4.5, 66.0, 7.5), (-6.3, 36.0, 6.5)):
        add_tree(mesh, (x, y, 0.1), height, rng)
    for x in (-14.0, -6.0, 0.5, 5.0, 13.0):
        add_tree(mesh, (x, END - 4, 0.1), rng.uniform(7, 10), rng, leaves=4)
    mesh.seed = 0.5
    add_car(mesh, -3.75, 12.2, 2)
    add_car(mesh, -3.7, 17.6, 4, scale=(1.02, 1.05, 1.02))
    add_car(mesh, -3.8, 23.4, 1, scale=(1.03, 1.08, 1.15))
    add_car(mesh, -3.7, 29.6, 0)
    add_car(mesh, -3.75, 35.4, 3, scale=(1.0, 0.95, 1.0))
    add_car(mesh, -3.75, 47.0, 5)
    add_car(mesh, 1.75, 16.0, 0, towards=True, scale=(1.02, 1.02, 1.02))
    add_car(mesh, 1.7, 52.0, 3, towards=True)
    add_car(mesh, -1.6, 44.0, 0)
    for x, places in ((-5.2, (16.2, 45.0, 76.0)), (4.1, (24.0, 60.0))):
        for y in places:
            add_lamp(mesh, x, y, 1.2 if x < 0 else -1.2)
    add_sign(mesh, 4.15, 12.6, 0)
    add_sign(mesh, -5.1, 27.0, 1)
    add_person(mesh, 5.0, 16.6, 1)
    add_person(mesh, -6.2, 12.8, 0, facing=-1.0)
    add_person(mesh, 5.5, 38.0, 0)
    add_cyclist(mesh, -1.75, 21.0, 4)
    return hierarchy(mesh)


@fast
def coordinates(k, u, v, tree):
    a, w = tree[4][k], 1 - u - v
    return (
        w * a[0, 0] + u * a[1, 0] + v * a[2, 0],
        w * a[0, 1] + u * a[1, 1] + v * a[2, 1],
        w * a[0, 2] + u * a[1, 2] + v * a[2, 2],
    )


@fast
def passing(k, u, v, shadow, tree):
    """Compute the transmittance of a card of leaves: light passes between them."""
    if tree[5][k] != LEAF:
        return (0.0, 0.0, 0.0)
    s, t, seed = coordinates(k, u, v, tree)
    x, y = s * 5 + 0.35 * noise(5 * t, seed, 1.0), t * 5 + 0.35 * noise(5 * s, seed, 2.0)
    i, j = floor(x), floor(y)
    a, b = x - i - 0.5, y - j - 0.5
    h = noise(i + 0.5 + 7 * seed, j + 0.5, seed)
    turn = 40 * h
    a, b = a * cos(turn) + b * sin(turn), b * cos(turn) - a * sin(turn)
    if (s - 0.5) ** 2 + (t - 0.5) ** 2 < 0.26 and h > 0.36 and a * a / 0.25 + b * b / 0.07 < 1:
        return (0.0, 0.0, 0.0)
    return (1.0, 1.0, 1.0)


trace = tracer(passing)


@fast
def sky(d, mirrored):
    """Compute a pale sky, white above the roofs, with thin clouds; reflections also show the hazy sun."""
    z = max(0.0, d[2])
    x, y = d[0] / (z + 0.12), d[1] / (z + 0.12)
    veil = min(1.0, max(0.0, 2.4 * cloud(0.9 * x, 0.6 * y, 3.0) - 0.75)) * (1 - exp(-6 * z))
    low = exp(-4.5 * z)
    blue = (0.62 + 1.1 * low, 0.86 + 0.9 * low, 1.2 + 0.62 * low)
    c = move(times(blue, (1.0, 1.0, 1.0), 1 - 0.7 * veil), 0.7 * veil, (1.7, 1.73, 1.78))
    return move(c, 14 * max(0.0, dot(d, SUN)) ** 300, (1.0, 0.95, 0.85)) if mirrored else c


@fast
def stain(p, scale, seed):
    """Compute patches of dirt, a factor of about 1."""
    return 0.72 + 0.56 * cloud(scale * p[0], scale * p[1] + seed, scale * p[2])


@fast
def road(p):
    x, y = p[0], p[1]
    s = 0.45 + 0.6 * noise(95 * x, 95 * y, 0.0) + 0.22 * noise(33 * x, 33 * y, 1.0) + 0.2 * noise(9 * x, 9 * y, 1.5)
    s += 0.3 if noise(120 * x, 120 * y, 6.0) > 0.8 else 0.0
    s *= 0.7 + 0.5 * cloud(0.9 * x, 0.25 * y, 2.0) + 0.12 * cloud(3.1 * x, 2.2 * y, 7.0)
    tracks = min(abs(abs(x + 1.5) - 0.75), abs(abs(x - 1.7) - 0.75))
    s *= 1.06 - 0.13 * exp(-tracks * tracks / 0.05)
    s *= 1 - 0.2 * exp(-((x + 3.75) ** 2) / 0.25) * noise(0.8 * y, 3.0, 3.0)  # oil where cars stand
    if (-3.4 < x < -1.9 and 12.0 < y < 19.0) or (0.9 < x < 2.3 and 8.0 < y < 13.5) or (-0.9 < x < 0.6 and 26 < y < 60):
        s *= 0.82  # repaired
    wander = x + 2.6 + 0.25 * noise(0.7 * y, 0.0, 5.0) + 0.05 * noise(6 * y, 0.0, 5.0)
    if abs(wander) < 0.008 or abs((y - 20.6) + 0.3 * noise(x, 0.0, 8.0)) < 0.02:  # cracks
        s *= 0.6
    s *= 1 - 0.4 * exp(-max(0.0, min(x - LEFT, RIGHT - x)) / 0.14)  # dirt in the gutter
    color = (0.118 * s, 0.118 * s, 0.122 * s)
    if (x + 0.95) ** 2 + (y - 9.6) ** 2 < 0.3**2:  # a manhole
        s = 0.07 + 0.07 * ((floor(x * 22) + floor(y * 22)) % 2)
        color = (s, s, s * 1.02)
    if LEFT + 0.05 < x < LEFT + 0.45 and abs(y - 9.2) < 0.22:
        s = 0.03 + 0.09 * (floor(y * 18) % 2)
        color = (s, s, s)
    worn = 0.35 + 0.9 * cloud(7 * x, 7 * y, 4.0) + 0.3 * noise(60 * x, 60 * y, 5.0)
    line = abs(x - 0.05) < 0.055 and (y + 1.2) % 6.0 < 3.6
    yellow = abs(x - RIGHT + 0.32) < 0.05 or abs(x - RIGHT + 0.52) < 0.05
    if worn > 0.62 and y < END - 16 and (line or yellow):
        s = 0.5 + 0.25 * worn
        color = (0.92 * s, 0.92 * s, 0.9 * s) if line else (0.62 * s, 0.47 * s, 0.13 * s)
    return color


@fast
def paving(p):
    x, y = p[0], p[1]
    if (x > RIGHT_FRONT + 0.1 and y < 33.0) or abs(x) > 17:  # grass
        s = 0.6 + 0.5 * noise(40 * x, 40 * y, 2.0) + 0.4 * cloud(2 * x, 2 * y, 2.0)
        return (0.075 * s, 0.115 * s, 0.035 * s)
    row = floor(y / 0.6)
    shift = x / 0.75 + 0.5 * (row % 2)
    column = floor(shift)
    s = 0.82 + 0.28 * noise(3.1 * column + 0.5, 1.7 * row + 0.5, 3.0) + 0.18 * noise(50 * x, 50 * y, 1.0)
    s *= stain(p, 1.3, 5.0)
    edge = max(abs(y / 0.6 - row - 0.5), abs(shift - column - 0.5))
    if edge > 0.482:
        s *= 0.5
    gum = noise(13 * x, 13 * y, 9.0)
    s *= 0.8 if gum > 0.86 else 1.0
    return (0.29 * s, 0.268 * s, 0.236 * s)


@fast
def masonry(p, n, seed):
    """Color a wall: red or yellow brick, or painted render."""
    along = p[1] if abs(n[0]) > 0.5 else p[0]
    kind = floor(seed) % 5
    dirt = stain(p, 0.7, seed) * (1 - 0.3 * exp(-p[2] / 0.35)) * (0.86 + 0.22 * noise(3.5 * along, 0.3 * p[2], seed))
    if kind >= 3:
        s = dirt * (0.92 + 0.12 * noise(40 * along, 40 * p[2], seed))
        if p[2] < 0.55:
            return (0.16 * s, 0.16 * s, 0.17 * s)
        return (0.68 * s, 0.65 * s, 0.58 * s) if kind == 3 else (0.6 * s, 0.52 * s, 0.4 * s)
    row = floor(p[2] / 0.075)
    shift = along / 0.225 + 0.5 * (row % 2)
    column = floor(shift)
    if p[2] / 0.075 - row < 0.14 or shift - column < 0.05:
        s = dirt * 0.9
        return (0.34 * s, 0.32 * s, 0.28 * s)
    h = noise(column * 3.3 + 0.5, row * 5.7 + 0.5, seed)
    s = dirt * (0.6 + 0.75 * h) * (0.85 + 0.3 * noise(60 * along, 60 * p[2], 1.0))
    if kind == 1:
        return (0.43 * s, 0.33 * s, 0.2 * s)
    g = noise(column * 7.1 + 0.5, row * 2.9 + 0.5, 4.0)
    return (0.3 * s, (0.12 + 0.05 * g) * s, (0.075 + 0.03 * g) * s)


@fast
def window(s, t, seed):
    """Color a sash window: painted frame, glazing bars, and behind the glass curtains or a dark room."""
    x, y = abs(s - 0.5), abs(t - 0.5)
    bars = floor(seed) % 3
    split = (x < 0.018 and bars > 0) or (bars == 2 and min(abs(t - 0.27), abs(t - 0.76)) < 0.01)
    if x > 0.435 or y > 0.455 or y < 0.022 or split:
        return (0.68, 0.67, 0.64), 0.04
    fold = 0.75 + 0.25 * sin(s * 70 + 3 * noise(9 * s, 2 * t, seed))
    drawn = 0.2 + 0.25 * noise(seed, 0.5, 0.5) - 0.08 * t
    if abs(s - 0.5) > 0.5 - drawn and floor(seed) % 4 > 0:
        return (0.4 * fold, 0.37 * fold, 0.32 * fold), 0.08
    if floor(seed) % 7 > 4 and t < 0.55:
        return (0.36 * fold, 0.36 * fold, 0.36 * fold), 0.08
    dark = 0.012 + 0.05 * noise(3 * s, 3 * t, seed)
    return (dark, dark, 1.05 * dark), 0.13


@fast
def door(s, t, seed):
    if t > 0.84:
        return (0.04, 0.045, 0.05), 0.12
    hue = floor(seed) % 5
    c = (0.3, 0.03, 0.03) if hue == 0 else ((0.03, 0.07, 0.2) if hue == 1 else (0.03, 0.1, 0.06))
    c = (0.5, 0.5, 0.47) if hue == 3 else c
    x, y = abs(abs(s - 0.5) - 0.22), abs((t * 1.3) % 0.5 - 0.25)
    edge = max(x / 0.15, y / 0.18)
    shade = 0.45 if 0.93 < edge < 1.07 or abs(s - 0.5) > 0.47 or abs(t - 0.83) < 0.015 else 1.0
    if abs(t - 0.45) < 0.012 and abs(s - 0.5) < 0.12:
        return (0.5, 0.42, 0.2), 0.3
    return times(c, (shade, shade, shade)), 0.05


@fast
def plate(x, z):
    """Draw marks that resemble letters from a distance."""
    ink = floor(x * 29) % 2 == 0 or noise(x * 60, z * 60, 3.0) > 0.6
    return ink and abs(x) < 0.24 and abs(z) < 0.036


@fast
def car(q, n, paint):
    """Color a position on a car: paint, glass, lamps, grille, plate, seams."""
    x, y, z = abs(q[0]), q[1], q[2]
    c, gloss, rough = PAINTS[paint], 0.05, 0.04
    black, clear = (0.012, 0.012, 0.013), (0.014, 0.017, 0.018)
    wide = 0.855 * (0.97 - 0.23 * max(0.0, z - 0.93) / 0.54)
    front, tail, side = y < 0.5 and n[1] * n[1] > 0.12, y > 3.6, abs(n[0]) > 0.6
    if side:
        if 0.98 < z < 1.36 and 1.4 + 1.45 * (z - 0.98) < y < 3.72 - 0.75 * (z - 0.98):
            pillar = min(abs(y - 2.42) - 0.035, abs(y - 3.16) - 0.03)
            return (clear, 0.09, 0.02) if pillar > 0 else (black, 0.05, 0.2)
        arch = min((y - 0.78) ** 2, (y - 3.25) ** 2) + (z - 0.3) ** 2
        if arch < 0.345**2:
            return black, 0.01, 0.8
        if z < 0.33 or 0.53 < z < 0.575:
            return (0.03, 0.03, 0.032), 0.03, 0.4
        seam = min(min(abs(y - 1.38), abs(y - 2.42)), abs(y - 3.2))
        if 0.36 < z < 0.98 and seam < 0.008:
            return black, 0.02, 0.5
        if 0.84 < z < 0.875 and min(abs(y - 2.26), abs(y - 3.02)) < 0.09:
            return black, 0.05, 0.3
        return c, gloss, rough
    if 1.02 < z < 1.385 and x < wide - 0.085 and 1.0 < y < 2.2:
        wheel = 0.03 if 0.0 < q[0] < 0.6 and z < 1.14 else 0.0  # the dashboard and the wheel
        return (0.014 + wheel, 0.017 + wheel, 0.018 + wheel), 0.1, 0.02
    if 1.0 < z < 1.31 and x < wide - 0.1 and y > 3.4:
        return clear, 0.1, 0.02
    if front and z < 0.8:
        lamp = ((x - 0.56) / 0.17) ** 2 + ((z - 0.655) / 0.075) ** 2
        if lamp < 1:
            return ((0.85, 0.85, 0.83) if lamp < 0.3 else ((0.3, 0.31, 0.32) if lamp < 0.8 else black)), 0.2, 0.05
        if x < 0.27 and 0.38 < z < 0.49:
            mark = plate(q[0], z - 0.435)
            return ((0.03, 0.03, 0.03) if mark else (0.8, 0.8, 0.78)), 0.04, 0.3
        if x < 0.36 and 0.58 < z < 0.7:
            return ((0.4, 0.4, 0.4) if x < 0.03 else black), 0.05, 0.3
        if (z < 0.36 and x < 0.55) or 0.5 < z < 0.53:
            return black, 0.03, 0.5
    if tail:
        if x > 0.56 and 0.68 < z < 0.96:
            return ((0.5, 0.02, 0.02) if z > 0.76 else (0.6, 0.45, 0.4)), 0.12, 0.05
        if x < 0.27 and 0.66 < z < 0.77:
            mark = plate(q[0], z - 0.715)
            return ((0.03, 0.03, 0.03) if mark else (0.78, 0.55, 0.05)), 0.04, 0.3
        if z < 0.38 or 0.57 < z < 0.6 or abs(z - 0.985) < 0.006:
            return black, 0.03, 0.5
    return c, gloss, rough


@fast
def sign(s, t, kind):
    """Color a sign: round with a 20 in red, or triangular as a warning."""
    if kind < 1:
        r = s * s + t * t
        bars = min(abs(abs(t) - 0.34), abs(t), abs(s + 0.1) if t > 0 else abs(s + 0.4))
        ink = abs(s + 0.25) < 0.18 and abs(t) < 0.4 and bars < 0.06
        zero = ((s - 0.27) / 0.2) ** 2 + (t / 0.4) ** 2
        if r > 0.6:
            return (0.55, 0.02, 0.03)
        return (0.02, 0.02, 0.02) if ink or 0.45 < zero < 1.0 else (0.8, 0.8, 0.8)
    if kind - 1 > 0.72:
        return (0.55, 0.02, 0.03)
    return (0.02, 0.02, 0.02) if abs(s) < 0.07 and -0.2 < t < 0.4 and abs(t + 0.06) > 0.06 else (0.8, 0.8, 0.8)


@fast
def surface(material, p, n, q):
    """Return diffuse color, reflectance at normal incidence, roughness, transmitted fraction."""
    if material >= CAR:
        c, gloss, rough = car(q, n, material - CAR)
        s = 0.94 + 0.1 * noise(30 * q[0], 30 * q[1], 30 * q[2])
        dust = max(0.0, 0.5 - q[2]) * 0.5
        return move(times(c, (s, s, s), 1 - dust), dust, (0.13, 0.12, 0.11)), gloss, rough, 0.0
    seed = q[2]
    if material == GROUND:
        return road(p), 0.02, 0.75, 0.0
    if material == PAVING:
        return paving(p), 0.01, 0.9, 0.0
    if material == KERB:
        s = stain(p, 4.0, 1.0) * (0.8 + 0.3 * noise(70 * p[0], 70 * p[1], 70 * p[2]))
        s *= 0.5 if p[1] % 0.9 < 0.018 else 1.0
        return (0.38 * s, 0.365 * s, 0.34 * s), 0.01, 0.9, 0.0
    if material == WALL:
        return masonry(p, n, seed), 0.0, 1.0, 0.0
    if material == ROOF:
        along = p[1] if abs(n[0]) > abs(n[1]) else p[0]
        row = floor(p[2] / 0.13)
        shift = along / 0.28 + 0.5 * (row % 2)
        s = 0.6 + 0.7 * noise(floor(shift) * 2.7 + 0.5, row * 3.9 + 0.5, seed)
        s *= stain(p, 1.1, seed) * (0.5 if p[2] / 0.13 - row < 0.14 or shift % 1 < 0.04 else 1.0)
        if floor(seed) % 3 == 0:
            return (0.2 * s, 0.1 * s, 0.07 * s), 0.02, 0.6, 0.0
        return (0.1 * s, 0.105 * s, 0.12 * s), 0.05, 0.4, 0.0
    if material == WINDOW:
        c, gloss = window(q[0], q[1], seed)
        return c, gloss, 0.02, 0.0
    if material == DOOR:
        c, gloss = door(q[0], q[1], seed)
        return c, gloss, 0.2, 0.0
    if material == STONE:
        s = stain(p, 2.0, 3.0)
        return (0.5 * s, 0.48 * s, 0.43 * s), 0.01, 0.8, 0.0
    if material == BARK:
        s = 0.45 + 0.8 * cloud(14 * p[0], 14 * p[1], 4 * p[2])
        return (0.12 * s, 0.1 * s, 0.08 * s), 0.0, 1.0, 0.0
    if material == LEAF:
        h = noise(floor(q[0] * 5) + 0.5 + 7 * seed, floor(q[1] * 5) + 0.5, 2.0)
        s = 0.55 + 0.7 * h
        return (0.085 * s + 0.03 * h, 0.125 * s, 0.032 * s), 0.03, 0.4, 0.25
    if material == METAL:
        s = stain(p, 3.0, 0.0)
        c = 0.03 if seed > 1 else 0.26
        return (c * s, c * s, 1.05 * c * s), 0.05, 0.35, 0.0
    if material == SIGN:
        return sign(q[0], q[1], q[2]), 0.04, 0.4, 0.0
    if material == SKIN:
        return (0.5, 0.3, 0.22), 0.02, 0.5, 0.0
    if material == TYRE:
        if q[2] < 0.2 and q[2] > 0.03:
            s = 0.1 if abs((np.arctan2(q[1], q[0]) * 5 / pi) % 1 - 0.5) > 0.22 and q[2] < 0.17 else 0.45
            return (s, s, s), 0.15, 0.25, 0.0
        return (0.025, 0.025, 0.026), 0.02, 0.6, 0.0
    s = 0.75 + 0.5 * cloud(9 * p[0], 9 * p[1], 5 * p[2])
    return times(CLOTHES[floor(seed) % 5], (s, s, s)), 0.01, 0.8, 0.0


@fast
def follow(o, d, state, tree, stack, guide):
    """Compute the light along a ray; `guide` receives color and normal of its first hit."""
    got, weight, back, scattered, mirrored = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (-1.0, -1.0, -1.0), 0, False
    for bounce in range(4):
        t, k, u, v, _ = trace(o, d, 1e4, False, tree, stack)
        if k < 0:
            shine = sky(d, mirrored)
            if bounce == 0:
                for i in range(3):
                    guide[i] += shine[i]
            got = move(got, 1.0 if bounce else 2.1, at_most(times(weight, shine), 3.0))
            break
        p, w, e, c = move(o, t, d), 1 - u - v, tree[2][k], tree[3][k]
        g = unit(((e[4] * e[8] - e[5] * e[7]), (e[5] * e[6] - e[3] * e[8]), (e[3] * e[7] - e[4] * e[6])))
        n = unit(move(move((w * c[0, 0], w * c[0, 1], w * c[0, 2]), u, c[1]), v, c[2]))
        if dot(n, g) < 0:
            n = times(n, back)
        if dot(d, g) > 0:
            n, g = times(n, back), times(g, back)
        color, base, rough, through = surface(tree[5][k], p, n, coordinates(k, u, v, tree))
        if bounce == 0:
            for i in range(3):
                guide[i], guide[i + 3] = guide[i] + color[i], guide[i + 3] + n[i]
            clear = exp(-t / 800)
            got, weight = times((1.15, 1.22, 1.3), (1.0, 1.0, 1.0), 1 - clear), (clear, clear, clear)
        cosine = max(1e-4, -dot(d, n))
        share = base + (1 - base) * (1 - cosine) ** 5 * (1 - rough) ** 2 if base > 0 else 0.0
        chance = 0.5 + 0.5 * share if base > 0.06 and bounce == 0 else share  # panes show little but what they mirror
        if random(state) < chance:
            x, weight = random(state), times(weight, (1.0, 1.0, 1.0), share / chance)  # a facet (GGX) mirrors
            c2 = (1 - x) / (1 + (rough**4 - 1) * x)
            facet = around(n, sqrt(max(0.0, 1 - c2)), 2 * pi * random(state), sqrt(c2))
            o, d, mirrored = move(p, 1e-3, g), unit(move(d, -2 * dot(d, facet), facet)), True
        else:
            color = times(color, (1.0, 1.0, 1.0), (1 - share) / (1 - chance))
            if random(state) < through:
                n, g, color = times(n, back), times(g, back), times(color, (1.6, 1.4, 0.7))
            o, weight, scattered, mirrored = move(p, 1e-3, g), times(weight, color), scattered + 1, False
            way = unit(move(SUN, 0.14, (random(state) - 0.5, random(state) - 0.5, random(state) - 0.5)))
            if dot(way, n) > 0:
                _, k, _, _, _ = trace(o, way, 1e4, True, tree, stack)
                got = move(got, dot(way, n) if k < 0 else 0.0, times(weight, SUNLIGHT))
            if scattered > 1:
                got = move(got, 1.0, times(weight, AMBIENT))
                break
            x = random(state)
            d = around(n, sqrt(x), 2 * pi * random(state), sqrt(1 - x))
        if dot(d, g) <= 0:
            break
    return got


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("street.jpg"))
    parser.add_argument("--scale", type=float, default=1.0, help="of 960 x 720")
    parser.add_argument("--samples", type=int, default=20, help="paths per pixel")
    arguments = parser.parse_args()
    shape = (2 * round(360 * arguments.scale), round(960 * arguments.scale))
    expose = camera(follow, EYE, TARGET, 22.0, 0.004, VIEW)
    light = denoise(*render(expose, shape, arguments.samples, build_scene(), batch=4), rounds=2)
    light = cv2.GaussianBlur(light, (0, 0), 0.62 * arguments.scale)
    pixels = develop(0.38 * light, np.random.default_rng(8))
    Image.fromarray(pixels).save(arguments.out, quality=90, optimize=True)


if __name__ == "__main__":
    main()
