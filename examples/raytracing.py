"""Code shared by the renderers of the examples: meshes, a bounding-box tree, rays, noise, camera, denoising, film.

Triangles are stored in a tuple that starts with the boxes of the tree, its links, and the triangles' corners and edges,
normals, texture coordinates and materials (`hierarchy` builds these six); a scene may append more.
"""

from __future__ import annotations

import time
from math import cos, floor, pi, sin, sqrt

import cv2
import numpy as np
from numba import njit, prange

fast = njit(fastmath=True)


class Mesh:
    """Triangles with smooth normals, texture coordinates and materials, cut from grids of points."""

    def __init__(self):
        self.corners, self.normals, self.uv, self.materials = [], [], [], []

    def grid(self, points, material, uv=None):
        """Add a sheet of points (H, W, 3), front side where columns run to the right and rows upwards."""
        rows, columns = points.shape[:2]
        along, up = np.gradient(points, axis=1), np.gradient(points, axis=0)
        if np.allclose(points[:, 0], points[:, -1]):  # closed: without a seam
            along[:, 0] = along[:, -1] = (points[:, 1] - points[:, -2]) / 2
        normals = np.cross(along, up)
        normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
        if uv is None:
            uv = np.stack(np.meshgrid(np.linspace(0, 1, columns), np.linspace(0, 1, rows)), -1)
        index = np.arange(rows * columns).reshape(rows, columns)
        a, b, c, d = (part.ravel() for part in (index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]))
        triangles = np.concatenate([np.stack([a, b, c], -1), np.stack([a, c, d], -1)])
        for kept, values in ((self.corners, points), (self.normals, normals), (self.uv, uv)):
            kept.append(values.reshape(rows * columns, -1)[triangles])
        self.materials.append(np.full(len(triangles), material))

    def lathe(self, profile, center, material, start=0.0, turn=2 * pi, segments=80):
        """Add the surface of revolution of a profile of (radius, height) around a vertical axis, front outwards."""
        (radius, height), angle = np.asarray(profile, float).T[..., None], start + np.linspace(0, turn, segments + 1)
        points = np.broadcast_arrays(radius * np.cos(angle), radius * np.sin(angle), height)
        self.grid(np.stack(points, -1) + np.array(center), material)


def rounded(points, rounds=2):
    """Smooth a polyline by cutting its corners (Chaikin); repeated points stay sharper."""
    points = np.asarray(points, float)
    for _ in range(rounds):
        near, far = 0.75 * points[:-1] + 0.25 * points[1:], 0.25 * points[:-1] + 0.75 * points[1:]
        points = np.concatenate([points[:1], np.stack([near, far], 1).reshape(-1, 2), points[-1:]])
    return points


@njit
def halve(low, high):
    """Build a bounding-box tree by the surface area heuristic; the first child follows its parent."""
    count = len(low)
    boxes, links, order = np.empty((2 * count, 6)), np.zeros((2 * count, 2), np.int64), np.arange(count)
    center, areas, waiting, nodes = (low + high) / 2, np.empty((2, count)), [(0, count, -1)], 0
    while len(waiting) > 0:
        first, last, parent = waiting.pop()
        if parent >= 0:
            links[parent, 0] = nodes
        node, nodes, size = nodes, nodes + 1, last - first
        best, cut, split, kept = float(size), 0, -1, order[first:last].copy()
        for axis in range(3):
            ranked = order[first:last][np.argsort(center[order[first:last], axis], kind="mergesort")]
            for side in range(2):  # from the one end and from the other
                a, b = np.full(3, np.inf), np.full(3, -np.inf)
                for i in range(size):
                    k = ranked[i] if side == 0 else ranked[size - 1 - i]
                    a, b = np.minimum(a, low[k]), np.maximum(b, high[k])
                    x, y, z = b - a
                    areas[side, i] = x * y + y * z + z * x
                boxes[node, :3], boxes[node, 3:] = a, b
            for i in range(1, size):
                cost = areas[0, i - 1] * i + areas[1, size - i - 1] * (size - i)
                cost = 0.7 + cost / max(areas[0, size - 1], 1e-12)
                if cost < best:
                    best, cut, split, kept = cost, i, axis, ranked
        if split < 0:  # a leaf: its first triangle and how many
            links[node] = (first, size)
        else:  # a branch: its second child (set when that is reached), and the axis as -1, -2 or -3
            order[first:last] = kept
            links[node, 1] = -split - 1
            waiting.append((first + cut, last, node))
            waiting.append((first, first + cut, -1))
    return boxes[:nodes], links[:nodes], order


def hierarchy(mesh):
    """Build the tree of triangles: boxes, links, corners and edges, normals, texture coordinates, materials."""
    corners, normals, uv, materials = map(np.concatenate, (mesh.corners, mesh.normals, mesh.uv, mesh.materials))
    boxes, links, order = halve(corners.min(axis=1), corners.max(axis=1))
    a, b, c = corners[order].transpose(1, 0, 2)
    edges = np.concatenate([a, b - a, c - a], axis=1)
    return boxes, links, edges, normals[order], uv[order], materials[order]


@fast
def random(state):
    x = state[0]
    x ^= x << np.uint64(13)
    x ^= x >> np.uint64(7)
    x ^= x << np.uint64(17)
    state[0] = x
    return float(x >> np.uint64(11)) / 9007199254740992.0


@fast
def move(a, s, b):
    return (a[0] + s * b[0], a[1] + s * b[1], a[2] + s * b[2])


@fast
def dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@fast
def cross(a, b):
    return (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])


@fast
def times(a, b, s=1.0):
    return (a[0] * b[0] * s, a[1] * b[1] * s, a[2] * b[2] * s)


@fast
def unit(a):
    return times(a, (1.0, 1.0, 1.0), 1 / sqrt(dot(a, a) + 1e-30))


@fast
def around(n, sine, turn, cosine):
    """Compute the direction at an angle to a normal, rotated about it."""
    s = unit(cross((0.0, 1.0, 0.0) if abs(n[0]) > 0.7 else (1.0, 0.0, 0.0), n))
    return unit(move(move(times(n, (cosine, cosine, cosine)), sine * cos(turn), s), sine * sin(turn), cross(n, s)))


@fast
def at_most(light, limit):
    """Limit rare, very bright paths, which would show as sparks."""
    return times(light, (1.0, 1.0, 1.0), min(1.0, limit / (1e-9 + max(light[0], light[1], light[2]))))


@fast
def noise(x, y, z):
    """Compute smooth value noise in 0..1."""
    i, j, k = floor(x), floor(y), floor(z)
    x, y, z, total = x - i, y - j, z - k, 0.0
    x, y, z = x * x * (3 - 2 * x), y * y * (3 - 2 * y), z * z * (3 - 2 * z)
    for corner in range(8):
        a, b, c = corner & 1, (corner >> 1) & 1, corner >> 2
        h = ((i + a) * 374761393 + (j + b) * 668265263 + (k + c) * 1440662683) & 0xFFFFFFFF
        h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
        total += (x if a else 1 - x) * (y if b else 1 - y) * (z if c else 1 - z) * float((h ^ (h >> 16)) & 0xFFFF)
    return total / 65535.0


@fast
def cloud(x, y, z):
    return 0.5 * noise(x, y, z) + 0.27 * noise(2.1 * x, 2.1 * y, 2.1 * z) + 0.23 * noise(4.3 * x, 4.3 * y, 4.3 * z)


def tracer(passing):
    """Build the intersection function of rays; `passing` is the transmittance of a triangle (black: opaque)."""

    @fast
    def trace(o, d, reach, shadow, tree, stack):
        """Find distance, number (-1: none) and barycentrics of the nearest triangle, and the light transmitted."""
        boxes, links, edges = tree[0], tree[1], tree[2]
        inverse = (1 / (d[0] + 1e-30), 1 / (d[1] + 1e-30), 1 / (d[2] + 1e-30))
        found, fu, fv, light, top, node = -1, 0.0, 0.0, (1.0, 1.0, 1.0), 0, 0
        while node >= 0:
            near, far = 0.0, reach
            for i in range(3):
                a, b = (boxes[node, i] - o[i]) * inverse[i], (boxes[node, i + 3] - o[i]) * inverse[i]
                near, far = max(near, min(a, b)), min(far, max(a, b))
            first, count = links[node, 0], links[node, 1]
            if near <= far * 1.0000001 and count < 0:
                ahead = d[-count - 1] >= 0
                stack[top] = first if ahead else node + 1
                node, top = (node + 1 if ahead else first), top + 1
                continue
            for k in range(first, first + count if near <= far * 1.0000001 else first):
                e, f = (edges[k, 3], edges[k, 4], edges[k, 5]), (edges[k, 6], edges[k, 7], edges[k, 8])
                p, s = cross(d, f), (o[0] - edges[k, 0], o[1] - edges[k, 1], o[2] - edges[k, 2])
                det = dot(e, p)
                if abs(det) < 1e-14:
                    continue
                q, u = cross(s, e), dot(s, p) / det
                v, t = dot(d, q) / det, dot(f, q) / det
                if u < 0 or v < 0 or u + v > 1 or t < 1e-5 or t > reach:
                    continue
                through = passing(k, u, v, shadow, tree)
                if through[0] > 0:
                    light = times(light, through)
                elif shadow:
                    return t, k, u, v, light
                else:
                    reach, found, fu, fv = t, k, u, v
            top -= 1
            node = stack[top] if top >= 0 else -1
        return reach, found, fu, fv, light

    return trace


def camera(follow, eye, target, focus, aperture, view):
    """Build the exposure through a thin lens; `view`: width of the image at distance 1; `follow` traces a ray."""

    @njit(parallel=True, fastmath=True)
    def expose(picture, guides, first, last, tree):
        """Add the light of paths `first` to `last` of every pixel, with color and normal of their first hits."""
        height, width = picture.shape[:2]
        ahead = unit(move(target, -1.0, eye))
        right = unit(cross(ahead, (0.0, 0.0, 1.0)))
        up = cross(right, ahead)
        for line in prange(height):
            row = line * 2 % height + line * 2 // height  # busy rows for every core
            state, stack = np.empty(1, np.uint64), np.empty(96, np.int64)
            for column in range(width):
                state[0] = np.uint64((row * width + column) * 2654435761 + first * 40503 + 88172645463325252)
                for sample in range(first - 8, last):
                    x, y, r, turn = random(state), random(state), aperture * sqrt(random(state)), 2 * pi * random(state)
                    if sample < first:  # a few steps decorrelate the generator from its seed
                        continue
                    x = (column + (0.7548776662 * sample + 0.3 * x) % 1) / width - 0.5
                    y = (0.5 * height - row - (0.5698402910 * sample + 0.3 * y) % 1) / width
                    aim = move(move(times(ahead, (focus, focus, focus)), focus * view * x, right), focus * view * y, up)
                    lens = move(times(right, (1.0, 1.0, 1.0), r * cos(turn)), r * sin(turn), up)
                    way = unit(move(aim, -1.0, lens))
                    light = follow(move(eye, 1.0, lens), way, state, tree, stack, guides[row, column])
                    for i in range(3):
                        picture[row, column, i] += light[i]

    return expose


def render(expose, shape, samples, tree, batch=16):
    """Render the light of an image, and the colors and normals of its first hits."""
    started, picture, guides = time.perf_counter(), np.zeros((*shape, 3)), np.zeros((*shape, 6))
    for first in range(0, samples, batch):
        last = min(first + batch, samples)
        expose(picture, guides, first, last, tree)
        print(f"{last} of {samples} samples, {time.perf_counter() - started:.0f} s", flush=True)
    return picture / samples, guides / samples


def denoise(light, guides, rounds=3):
    """Denoise by the edge-avoiding à-trous wavelet (Dammertz et al. 2010), guided by brightness, color and normals."""
    color, normal = guides[..., :3], guides[..., 3:]
    light = (light / (color + 0.02)).astype(np.float32)  # without textures
    light = np.minimum(light, 1.6 * cv2.medianBlur(light, 3) + 0.05)  # and sparks
    for step in 2 ** np.arange(rounds):
        total, weights, bright = 0.0, 0.0, np.log(cv2.GaussianBlur(light, (0, 0), 0.7).mean(axis=-1) + 0.02)
        for i, j in np.ndindex(5, 5):
            shift = np.float64([[1, 0, (j - 2) * step], [0, 1, (i - 2) * step]])
            a, b, c, d = (
                cv2.warpAffine(part, shift, part.shape[1::-1], borderMode=cv2.BORDER_REFLECT)
                for part in (light, color, normal, bright)
            )
            apart = ((b - color) ** 2).sum(-1) / 0.01 + ((c - normal) ** 2).sum(-1) / 0.06 + (d - bright) ** 2 / 0.03
            weight = (np.array([1, 4, 6, 4, 1])[[i, j]].prod() * np.exp(-apart))[..., None]
            total, weights = total + weight * a, weights + weight
        light = total / weights
    return light * (color + 0.02)


def develop(light, rng):
    """Convert light to 8 bits as film does: bloom, vignetting, a tone curve, and grain."""
    height, width = light.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = 1.06 * light + 0.04 * cv2.GaussianBlur(np.minimum(light, 6), (0, 0), width / 60)
    light = light * (1 - 0.13 * (x * x + y * y / 2))[..., None]
    curve = np.clip(light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14), 0, 1)
    picture = np.where(curve < 0.0031308, 12.92 * curve, 1.055 * curve ** (1 / 2.4) - 0.055)
    grain = cv2.GaussianBlur(rng.normal(0, 1, (height, width, 3)), (0, 0), 0.6)
    grain = 1.1 * grain.mean(axis=-1, keepdims=True) + 0.35 * grain
    picture = picture + 0.016 * grain * (0.35 + picture * (1 - picture) * 2.6)
    return np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
