"""Read GeoTIFF files of any size window by window, as 8-bit RGB."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from atrous.errors import AtrousError
from atrous.imaging.io import DECODING_ERRORS, Pixels
from atrous.imaging.pixel_limit import pillow_without_limit

CACHE_MEGABYTES = 64
"""The memory in which GDAL keeps decoded blocks of files."""
SAMPLED_SIDE = 1024
"""The sides of the thumbnail in which the range of values is measured, at most."""
PERCENTILES = (2.0, 98.0)
"""The percentiles that become black and white, unless a range is given."""
_GEO_TAGS = (33550, 33922, 34264, 34735)
"""The TIFF tags of a GeoTIFF: pixel scale, tie points, transformation, keys."""


def is_georeferenced(path: Path) -> bool:
    """Tell whether a file is a TIFF with coordinates of a map, without rasterio."""
    if path.suffix.lower() not in (".tif", ".tiff"):
        return False
    try:
        with pillow_without_limit(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                tags: Any = getattr(image, "tag_v2", {})
                return any(tag in tags for tag in _GEO_TAGS)
    except DECODING_ERRORS:  # 16 bits in four channels, for example: Pillow cannot read it, GDAL may
        return _has_coordinates(path)


def _has_coordinates(path: Path) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with import_rasterio().open(path) as dataset:
                return bool(dataset.gcps[0]) or not dataset.transform.is_identity
    except (AtrousError, OSError):
        return False


def import_rasterio() -> Any:
    """Import rasterio.

    Raises: `AtrousError` if it is not installed.
    """
    try:
        import rasterio
        import rasterio.windows
    except ImportError as error:
        raise AtrousError("GeoTIFF files need rasterio: pip install 'atrous[geo]'.") from error
    return rasterio


class GeoImage:
    """The pixels of a georeferenced raster, read window by window: `image[top:bottom, left:right]` is 8-bit RGB.

    `bands` are the three bands for red, green and blue, or one for gray, counted from 1; by default those that the file
    names so, else the first three, or the first one of fewer. `scale` is the range of values that becomes 0 to 255; by
    default 8-bit values stay as they are, and the 2nd to the 98th percentile of each band does so for other types.
    A band with a palette becomes its colors, unless `bands` or `scale` ask for its values. Pixels without data are
    filled with the color `fill`. As a context manager it closes the file.

    Attributes: `shape` (H, W, 3); `dataset`, rasterio's; `ranges`, the range of each band; `gcps`, the ground control
    points that locate a file without a transform; `crs`, the coordinate system of either.
    Raises: `AtrousError` without rasterio, for a file that it cannot read, bands that do not exist, an empty range.
    """

    def __init__(
        self,
        path: Path,
        *,
        bands: tuple[int, ...] | None = None,
        scale: tuple[float, float] | None = None,
        fill: tuple[int, int, int] = (0, 0, 0),
    ) -> None:
        self._rasterio = import_rasterio()
        self._path = path
        self._fill = np.array(fill, np.uint8)
        with ExitStack() as stack:
            stack.enter_context(self._rasterio.Env(GDAL_CACHEMAX=CACHE_MEGABYTES))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", self._rasterio.errors.NotGeoreferencedWarning)
                    self.dataset = stack.enter_context(self._rasterio.open(path))
            except self._rasterio.errors.RasterioError as error:
                raise AtrousError(f"{path}: rasterio cannot read this file ({error}). Check the path.") from error
            self._bands = self._choose_bands(bands)
            self._palette = self._read_palette() if bands is None and scale is None else None
            self.shape = (self.dataset.height, self.dataset.width, 3)
            self.ranges = None if self._palette is not None else self._choose_ranges(scale)
            self.gcps, gcps_crs = self.dataset.gcps if self.dataset.transform.is_identity else ([], None)
            self.crs = gcps_crs if self.gcps else self.dataset.crs
            self._stack = stack.pop_all()

    def __enter__(self) -> GeoImage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _choose_bands(self, bands: tuple[int, ...] | None) -> list[int]:
        count = self.dataset.count
        if bands is None:
            names = [color.name for color in self.dataset.colorinterp]
            colors = [names.index(name) + 1 for name in ("red", "green", "blue") if name in names]
            bands = tuple(colors) if len(colors) == 3 else (1, 2, 3) if count >= 3 else (1,)
        if len(bands) not in (1, 3) or not all(1 <= band <= count for band in bands):
            listed = ",".join(map(str, bands))
            raise AtrousError(
                f"{self._path}: bands {listed}; expected one band, or three for red, green and blue, from 1 to {count}."
            )
        return list(bands)

    def _read_palette(self) -> Pixels | None:
        """Read the colors of the values of a single band, (values, 3); None without a palette."""
        if len(self._bands) != 1 or self.dataset.colorinterp[self._bands[0] - 1].name != "palette":
            return None
        colors = self.dataset.colormap(self._bands[0])
        palette = np.zeros((np.iinfo(self.dataset.dtypes[self._bands[0] - 1]).max + 1, 3), np.uint8)
        palette[list(colors)] = [color[:3] for color in colors.values()]
        return palette

    def _choose_ranges(self, scale: tuple[float, float] | None) -> list[tuple[float, float]] | None:
        if scale is not None:
            if not scale[0] < scale[1]:
                raise AtrousError(f"scale {scale[0]:g},{scale[1]:g}: expected the lower value first, such as 0,10000.")
            return [scale] * len(self._bands)
        if all(self.dataset.dtypes[band - 1] == "uint8" for band in self._bands):
            return None
        factor = max(1, *(side / SAMPLED_SIDE for side in self.shape[:2]))
        size = max(1, round(self.shape[0] / factor)), max(1, round(self.shape[1] / factor))
        thumbnail, mask = self._read(out_shape=(len(self._bands), *size)), self._mask(out_shape=size)
        ranges = []
        for values in thumbnail:
            valid = values[mask & np.isfinite(values)]
            low, high = np.percentile(valid, PERCENTILES).tolist() if valid.size else (0.0, 1.0)
            ranges.append((low, high if high > low else low + 1))
        return ranges

    def __getitem__(self, window: tuple[slice, slice]) -> Pixels:
        """Read a window; rows and columns beyond the image are left out.

        Shape: -> (h, w, 3) uint8.
        """
        inside = self._window(*window)
        values = self._read(window=inside)
        if self.ranges is not None:
            low, high = np.array(self.ranges, np.float32).T[:, :, None, None]
            with np.errstate(invalid="ignore"):
                values = np.nan_to_num((values.astype(np.float32) - low) * (255 / (high - low)))
            values = np.rint(values.clip(0, 255)).astype(np.uint8)
        if self._palette is not None:
            pixels = self._palette[values[0]]
        else:
            pixels = np.ascontiguousarray(np.broadcast_to(values, (3, *values.shape[1:])).transpose(1, 2, 0))
        pixels[~self._mask(window=inside)] = self._fill
        return pixels

    def valid(self, top: int, bottom: int) -> NDArray[np.bool_]:
        """Tell which pixels of some rows hold data.

        Shape: -> (h, W).
        """
        return self._mask(window=self._window(slice(top, bottom), slice(0, self.shape[1])))

    def _window(self, rows: slice, columns: slice) -> Any:
        height, width = self.shape[:2]
        top, left = rows.start or 0, columns.start or 0
        bottom, right = (min(part.stop, side) for part, side in ((rows, height), (columns, width)))
        return self._rasterio.windows.Window(left, top, right - left, bottom - top)

    def _read(self, **options: Any) -> NDArray[Any]:
        with self._reading():
            return np.asarray(self.dataset.read(self._bands, **options))

    def _mask(self, **options: Any) -> NDArray[np.bool_]:
        """Tell which pixels hold data, by the file's nodata value, alpha channel or mask."""
        with self._reading():
            return np.asarray(self.dataset.dataset_mask(**options)) > 0

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except self._rasterio.errors.RasterioError as error:
            raise AtrousError(f"{self._path}: truncated or damaged ({error}). Download it again.") from error
