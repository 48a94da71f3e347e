"""The compiled part of `upsampled_argmax`, in a file of its own: numba takes a while to import."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def argmax_kernel(scores, row_first, row_second, row_weight, column_second, column_weight, tops, lefts, cells, out):  # type: ignore[no-untyped-def]
    """Fill `out` (H, W) from `scores` (h, w, K). A cell is the area between four neighboring scores.

    `tops` are the rows where cells begin, and the end of the last one; rows outside them are left as they are.
    """
    classes = scores.shape[2]
    candidates = np.empty(classes, np.int64)  # classes that can win in the cell
    row_candidates = np.empty(classes, np.int64)  # indices of candidates that can win in a row
    left_score = np.empty(classes, np.float32)
    right_score = np.empty(classes, np.float32)
    for task in range(len(tops) - 1):
        top, bottom = tops[task], tops[task + 1]
        upper, lower = scores[row_first[top]], scores[row_second[top]]
        for cell in range(len(cells)):
            left, right = lefts[cell], lefts[cell + 1]
            x0, x1 = cells[cell], column_second[left]
            threshold = np.float32(-np.inf)
            for k in range(classes):
                threshold = max(threshold, min(min(upper[x0, k], upper[x1, k]), min(lower[x0, k], lower[x1, k])))
            count = 0
            for k in range(classes):
                candidates[count] = k
                count += max(max(upper[x0, k], upper[x1, k]), max(lower[x0, k], lower[x1, k])) >= threshold
            if count == 1:
                for y in range(top, bottom):
                    for x in range(left, right):
                        out[y, x] = candidates[0]
                continue
            for y in range(top, bottom):
                lower_weight = row_weight[y]
                upper_weight = np.float32(1) - lower_weight
                threshold = np.float32(-np.inf)
                for n in range(count):
                    k = candidates[n]
                    left_score[n] = upper_weight * upper[x0, k] + lower_weight * lower[x0, k]
                    right_score[n] = upper_weight * upper[x1, k] + lower_weight * lower[x1, k]
                    threshold = max(threshold, min(left_score[n], right_score[n]))
                row_count = 0
                for n in range(count):
                    row_candidates[row_count] = n
                    row_count += max(left_score[n], right_score[n]) >= threshold
                if row_count == 1:
                    for x in range(left, right):
                        out[y, x] = candidates[row_candidates[0]]
                    continue
                for x in range(left, right):
                    right_weight = column_weight[x]
                    left_weight = np.float32(1) - right_weight
                    winner = row_candidates[0]
                    best = left_weight * left_score[winner] + right_weight * right_score[winner]
                    for n in range(1, row_count):
                        rival = row_candidates[n]
                        value = left_weight * left_score[rival] + right_weight * right_score[rival]
                        if value > best:
                            best = value
                            winner = rival
                    out[y, x] = candidates[winner]
