"""The compiled part of `polygons`, in a file of its own: numba takes a while to import.

Vertices are the corners of pixels, (x, y) from (0, 0) to (W, H). A directed edge runs along the side of a pixel of its
region, which lies on its right: below an edge to the right. Pixels outside the image and ignored ones are -1.
"""

from __future__ import annotations

import numba
import numpy as np

RIGHT, DOWN, LEFT, UP = 0, 1, 2, 3
CLOSED, TOP, BOTTOM = 0, 1, 2
"""Where a piece of a ring begins or ends: nowhere, at the upper side of the strip, or at the lower one."""
NODE, SADDLE = 1, 2
"""Kinds of vertices: where three borders meet or the image has a corner; where four borders meet."""


@numba.njit(cache=True, nogil=True)
def find(parent, index):  # type: ignore[no-untyped-def]
    """Find the root of a component, and halve the path to it."""
    while parent[index] != index:
        parent[index] = parent[parent[index]]
        index = parent[index]
    return index


@numba.njit(cache=True, nogil=True)
def label_components(padded, above, parent, count, ids):  # type: ignore[no-untyped-def]
    """Fill `ids` (R, W) with the component of every pixel of a strip, and join components in `parent`.

    `padded` (R + 2, W + 2) holds the strip inside, and the row above it; `above` (W,) are the components of that row.
    Returns the number of components so far. Pixels side by side are connected, diagonal ones are not.
    """
    rows, width = ids.shape
    for y in range(rows):
        for x in range(width):
            label = padded[y + 1, x + 1]
            if label < 0:
                ids[y, x] = -1
                continue
            upper = -1
            if padded[y, x + 1] == label:
                upper = above[x] if y == 0 else ids[y - 1, x]
            if padded[y + 1, x] == label:
                left = ids[y, x - 1]
                ids[y, x] = left
                if upper >= 0 and upper != left:
                    first, second = find(parent, upper), find(parent, left)
                    parent[max(first, second)] = min(first, second)
            elif upper >= 0:
                ids[y, x] = upper
            else:
                parent[count] = count
                ids[y, x] = count
                count += 1
    return count


@numba.njit(cache=True, nogil=True)
def count_corners(padded):  # type: ignore[no-untyped-def]
    """Bound the number of vertices in a strip, each counted for all rings through it."""
    total = 0
    for y in range(padded.shape[0] - 1):
        for x in range(padded.shape[1] - 1):
            a, b, c, d = padded[y, x], padded[y, x + 1], padded[y + 1, x], padded[y + 1, x + 1]
            if not ((a == b and c == d) or (a == c and b == d)):
                total += 4
    return total


@numba.njit(cache=True, nogil=True)
def trace_strip(padded, ids, above, first, last, points, kinds, pieces):  # type: ignore[no-untyped-def]
    """Trace the borders of all regions in a strip of rows, as closed rings and as pieces that end at its sides.

    Fills `points` (N, 2) with x and y within the strip, `kinds` (N,), and `pieces` (P, 7): the end in `points`, start
    side and x, end side and x, component, label. Returns the number of pieces. `first` and `last` tell whether the
    strip is at the top or at the bottom of the image. The lower side of other strips belongs to the next one.
    """
    rows, width = ids.shape
    visited = np.zeros((rows, width), np.bool_)  # edges to the right
    used = 0
    count = 0
    for x in range(width + 1):  # pieces that come from above
        label = padded[0, x]
        if label >= 0 and label != padded[0, x + 1]:
            used, side, end = _follow(padded, visited, first, last, x, 0, DOWN, label, used, points, kinds)
            count = _store(pieces, count, used, TOP, x, side, end, above[x - 1], label)
    if not last:
        for x in range(width + 1):  # pieces that come from below
            label = padded[rows, x + 1]
            if label >= 0 and label != padded[rows, x]:
                used, side, end = _follow(padded, visited, first, last, x, rows - 1, UP, label, used, points, kinds)
                count = _store(pieces, count, used, BOTTOM, x, side, end, ids[rows - 1, x], label)
    for y in range(rows):
        for x in range(width):
            label = padded[y + 1, x + 1]
            if label >= 0 and label != padded[y, x + 1] and not visited[y, x]:
                visited[y, x] = True
                used, _, _ = _follow(padded, visited, first, last, x + 1, y, RIGHT, label, used, points, kinds)
                count = _store(pieces, count, used, CLOSED, 0, CLOSED, 0, ids[y, x], label)
    return count


@numba.njit(cache=True, nogil=True)
def _store(pieces, count, used, start, start_x, end, end_x, component, label):  # type: ignore[no-untyped-def]
    piece = pieces[count]
    piece[0], piece[1], piece[2], piece[3], piece[4] = used, start, start_x, end, end_x
    piece[5], piece[6] = component, label
    return count + 1


@numba.njit(cache=True, nogil=True)
def _follow(padded, visited, first, last, x, y, direction, label, used, points, kinds):  # type: ignore[no-untyped-def]
    """Follow a border from the end (x, y) of an edge; returns the number of vertices, the side and the x of its end."""
    rows, width = padded.shape[0] - 2, padded.shape[1] - 2
    while True:
        if y == rows and not last:
            return used, BOTTOM, x
        a, b, c, d = padded[y, x], padded[y, x + 1], padded[y + 1, x], padded[y + 1, x + 1]
        if direction == RIGHT:
            ahead_left, ahead_right = b, d
        elif direction == DOWN:
            ahead_left, ahead_right = d, c
        elif direction == LEFT:
            ahead_left, ahead_right = c, a
        else:
            ahead_left, ahead_right = a, b
        turned = direction
        if ahead_right != label:
            turned = (direction + 1) % 4
        elif ahead_left == label:
            turned = (direction + 3) % 4
        borders = int(a != b) + int(b != d) + int(d != c) + int(c != a)
        if turned != direction or borders > 2:
            corner = (x == 0 or x == width) and ((y == 0 and first) or (y == rows and last))
            points[used, 0], points[used, 1] = x, y
            kinds[used] = SADDLE if borders == 4 else NODE if borders == 3 or corner else 0
            used += 1
        direction = turned
        if direction == RIGHT:
            if visited[y, x]:
                return used, CLOSED, 0
            visited[y, x] = True
            x += 1
        elif direction == DOWN:
            y += 1
        elif direction == LEFT:
            x -= 1
        elif y == 0:
            return used, TOP, x
        else:
            y -= 1


@numba.njit(cache=True, nogil=True)
def order_pieces(following):  # type: ignore[no-untyped-def]
    """Order pieces along the rings that they form; returns the order, and for each ring its first place in it."""
    order = np.empty(len(following), np.int64)
    starts = np.empty(len(following) + 1, np.int64)
    done = np.zeros(len(following), np.bool_)
    used = rings = 0
    for begin in range(len(following)):
        piece = begin
        if not done[piece]:
            starts[rings] = used
            rings += 1
        while not done[piece]:
            done[piece] = True
            order[used] = piece
            used += 1
            piece = following[piece]
    starts[rings] = used
    return order, starts[: rings + 1]


@numba.njit(cache=True, nogil=True)
def find_bends(points, offsets):  # type: ignore[no-untyped-def]
    """Tell which points of the rings are not on the line between their neighbors."""
    bends = np.empty(len(points), np.bool_)
    for ring in range(len(offsets) - 1):
        first, end = offsets[ring], offsets[ring + 1]
        for index in range(first, end):
            previous = index - 1 if index > first else end - 1
            following = index + 1 if index + 1 < end else first
            x, y = points[index, 0], points[index, 1]
            before = (x - points[previous, 0]) * (points[following, 1] - y)
            bends[index] = before != (y - points[previous, 1]) * (points[following, 0] - x)
    return bends


@numba.njit(cache=True, nogil=True)
def split_rings(vertex, offsets, num_vertices):  # type: ignore[no-untyped-def]
    """Split rings that visit a vertex twice into rings that visit it once each.

    `vertex` (N,) holds the number of each point's vertex, or -1 where no other point has the same. Returns the order of
    the points, the offsets of the rings, and the ring that each of them was a part of.
    """
    order = np.empty(len(vertex), np.int64)
    ends = np.empty(len(vertex) + 1, np.int64)
    origin = np.empty(len(vertex), np.int64)
    stack = np.empty(len(vertex), np.int64)
    place = np.full(num_vertices, -1, np.int64)  # in the stack
    used = rings = 0
    ends[0] = 0
    for ring in range(len(offsets) - 1):
        height = 0
        for point in range(offsets[ring], offsets[ring + 1] + 1):
            ended = point == offsets[ring + 1]
            low = 0
            if not ended:
                low = place[vertex[point]] if vertex[point] >= 0 else -1
            if low >= 0:
                for level in range(low, height):
                    order[used] = stack[level]
                    if vertex[stack[level]] >= 0:
                        place[vertex[stack[level]]] = -1
                    used += 1
                if height > low:
                    origin[rings] = ring
                    rings += 1
                    ends[rings] = used
                height = low
            if not ended:
                if vertex[point] >= 0:
                    place[vertex[point]] = height
                stack[height] = point
                height += 1
    return order, ends[: rings + 1], origin[:rings]


@numba.njit(cache=True, nogil=True)
def simplify_rings(points, offsets, kinds, vertex, keys, row_length, tolerance, active):  # type: ignore[no-untyped-def]
    """Clear `active` (V,) for vertices without which all borders stay within a tolerance, and still do not cross.

    `keys` (V,), ascending, are the vertices as y * `row_length` + x. A vertex is removed if the triangle with its
    neighbors holds no other vertex: then no border can cross the new one. Borders between the same two nodes are
    simplified once, for the regions on both sides.
    """
    done = np.zeros(len(keys), np.bool_)
    for ring in range(len(offsets) - 1):
        start, length = offsets[ring], offsets[ring + 1] - offsets[ring]
        shift = 0
        while shift < length and kinds[start + shift] == 0:
            shift += 1
        if shift == length:  # an island: any vertex will do
            shift = 0
        begin = 0
        while begin < length:
            end = begin + 1
            while end < length and kinds[start + (shift + end) % length] == 0:
                end += 1
            if end - begin > 1 and not done[vertex[start + (shift + begin + 1) % length]]:
                chain = np.empty(end - begin + 1, np.int64)
                for index in range(end - begin + 1):
                    chain[index] = start + (shift + begin + index) % length
                _simplify_chain(points, chain, vertex, keys, row_length, tolerance, active, done)
            begin = end


@numba.njit(cache=True, nogil=True)
def _simplify_chain(points, chain, vertex, keys, row_length, tolerance, active, done):  # type: ignore[no-untyped-def]
    """Simplify the border between two nodes, or around an island; the vertices at its ends stay."""
    last = len(chain) - 1
    for index in range(1, last):
        done[vertex[chain[index]]] = True
    closed = vertex[chain[0]] == vertex[chain[last]]
    if closed:
        done[vertex[chain[0]]] = True
    removable = last - 1 - (2 if closed else 1)  # what is left encloses an area
    anchor, middle = 0, 1
    for end in range(2, last + 1):
        if (
            removable > 0
            and _is_near(points, chain, anchor, end, tolerance)
            and _is_empty(points, chain[anchor], chain[middle], chain[end], vertex, keys, row_length, active)
        ):
            active[vertex[chain[middle]]] = False
            removable -= 1
        else:
            anchor = middle
        middle = end


@numba.njit(cache=True, nogil=True)
def _is_near(points, chain, first, last, tolerance):  # type: ignore[no-untyped-def]
    """Tell whether all vertices between two lie within the tolerance of the segment between them."""
    x0, y0 = float(points[chain[first], 0]), float(points[chain[first], 1])
    dx, dy = points[chain[last], 0] - x0, points[chain[last], 1] - y0
    squared = dx * dx + dy * dy
    for index in range(first + 1, last):
        px, py = points[chain[index], 0] - x0, points[chain[index], 1] - y0
        along = min(1.0, max(0.0, (px * dx + py * dy) / squared)) if squared > 0 else 0.0
        ex, ey = px - along * dx, py - along * dy
        if ex * ex + ey * ey > tolerance * tolerance:
            return False
    return True


@numba.njit(cache=True, nogil=True)
def _is_empty(points, a, b, c, vertex, keys, row_length, active):  # type: ignore[no-untyped-def]
    """Tell whether a triangle, its sides included, holds no other active vertex."""
    ax, ay, bx, by, cx, cy = points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1]
    left, right = min(ax, bx, cx), max(ax, bx, cx)
    for y in range(min(ay, by, cy), max(ay, by, cy) + 1):
        for place in range(np.searchsorted(keys, y * row_length + left), len(keys)):
            if keys[place] > y * row_length + right:
                break
            if not active[place] or place == vertex[a] or place == vertex[b] or place == vertex[c]:
                continue
            x = keys[place] - y * row_length
            first = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
            second = (cx - bx) * (y - by) - (cy - by) * (x - bx)
            third = (ax - cx) * (y - cy) - (ay - cy) * (x - cx)
            if (first >= 0 and second >= 0 and third >= 0) or (first <= 0 and second <= 0 and third <= 0):
                return False
    return True


@numba.njit(cache=True, nogil=True)
def join_holes(points, offsets):  # type: ignore[no-untyped-def]
    """Join the holes of a polygon to its outer ring by slits of no width; returns the points (N, 2) of one ring.

    `points` (N, 2) float64 are the rings at `offsets`: the outer one, then the holes in ascending order of their first
    vertices, which are their leftmost. From there a slit runs to the left, through the polygon, to the next border.
    """
    holes = len(offsets) - 2
    total = len(points) + 3 * holes
    xs, ys = np.empty(total, np.float64), np.empty(total, np.float64)
    following = np.empty(total, np.int64)
    used = offsets[1]
    for index in range(used):
        xs[index], ys[index], following[index] = points[index, 0], points[index, 1], index + 1
    following[used - 1] = 0
    for hole in range(1, holes + 1):
        begin, end = offsets[hole], offsets[hole + 1]
        x, y = points[begin, 0], points[begin, 1]
        nearest, best = 0, -np.inf
        for index in range(used):
            after = following[index]
            hit = _hit(xs[index], ys[index], xs[after], ys[after], x, y)
            if hit > best:
                nearest, best = index, hit
        tail = following[nearest]
        if xs[nearest] != best or ys[nearest] != y:
            xs[used], ys[used] = best, y
            following[nearest] = used
            nearest = used
            used += 1
        following[nearest] = used
        for index in range(begin, end + 1):
            point = begin if index == end else index
            xs[used], ys[used], following[used] = points[point, 0], points[point, 1], used + 1
            used += 1
        xs[used], ys[used], following[used] = xs[nearest], ys[nearest], tail
        used += 1
    ring = np.empty((used, 2), np.float64)
    index = 0
    for count in range(used):
        ring[count, 0], ring[count, 1] = xs[index], ys[index]
        index = following[index]
    return ring


@numba.njit(cache=True, nogil=True)
def _hit(x0, y0, x1, y1, x, y):  # type: ignore[no-untyped-def]
    """The rightmost x, not beyond `x`, where a segment meets the line at `y`; minus infinity if there is none."""
    if y < min(y0, y1) or y > max(y0, y1):
        return -np.inf
    if y0 == y1:
        return -np.inf if min(x0, x1) > x else min(max(x0, x1), x)
    hit = x0 + (x1 - x0) * ((y - y0) / (y1 - y0))
    return hit if hit <= x else -np.inf
