"""The canvas that tissue is drawn on: layers of substances that absorb light, and shapes in µm."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

LAYERS = ("nuclei", "epithelium", "stroma", "mucin", "blood", "marked")


@dataclass
class Canvas:
    """A field of view while it is drawn.

    Attributes:
        pixel_um: Side of a raster pixel in µm.
        inside: ``(H, W)`` float32, distance to the edge of the tissue in µm, negative on bare glass.
        rng: Source of every random number of the image.
        mask: ``(H, W)`` uint8 in {0, 1}, functional tissue units.
        layers: A ``(H, W)`` float32 map, about 0 to 1, for each of `LAYERS`.
    """

    pixel_um: float
    inside: np.ndarray
    rng: np.random.Generator
    mask: np.ndarray = field(init=False)
    layers: dict[str, np.ndarray] = field(init=False)

    def __post_init__(self) -> None:
        self.mask = np.zeros(self.inside.shape, np.uint8)
        self.layers = {name: np.zeros(self.inside.shape, np.float32) for name in LAYERS}

    @property
    def extent_um(self) -> tuple[float, float]:
        """Height and width of the field in µm."""
        return self.inside.shape[0] * self.pixel_um, self.inside.shape[1] * self.pixel_um

    def noise(self, scale_um: float) -> np.ndarray:
        """Smooth ``(H, W)`` float32 noise, mean 0, standard deviation about 1, of one length scale in µm."""
        return noise(self.inside.shape, self.pixel_um, scale_um, self.rng)

    def add(self, region: np.ndarray, **density: float | np.ndarray) -> None:
        """Set layers inside a boolean region; layers that are not named become empty there."""
        for name, layer in self.layers.items():
            np.copyto(layer, np.asarray(density.get(name, 0.0), np.float32), where=region)

    def region(self, polygons: list[np.ndarray]) -> np.ndarray:
        """Boolean ``(H, W)`` union of polygons, each ``(n, 2)`` of (y, x) in µm."""
        filled = np.zeros(self.inside.shape, np.uint8)
        for polygon in polygons:
            cv2.fillPoly(filled, [np.rint(polygon[:, ::-1] / self.pixel_um * 16).astype(np.int32)], 1, shift=4)
        union: np.ndarray = filled > 0
        return union

    def depth(self, region: np.ndarray) -> np.ndarray:
        """``(H, W)`` float32 distance in µm from the outline of a region, 0 outside it."""
        distance: np.ndarray = cv2.distanceTransform(region.astype(np.uint8), cv2.DIST_L2, 5)
        return distance * np.float32(self.pixel_um)

    def at(self, image: np.ndarray, points: np.ndarray) -> np.ndarray:
        """Values of an ``(H, W)`` image at ``(n, 2)`` points in µm, the nearest pixel for those off the field."""
        y, x = (points / self.pixel_um).astype(int).T
        values: np.ndarray = image[y.clip(0, image.shape[0] - 1), x.clip(0, image.shape[1] - 1)]
        return values

    def cells(self, spacing_um: float, *, stretch: float = 1.0, warp_um: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Pack the field with irregular cells: a Voronoi diagram of jittered points, warped and stretched.

        Returns:
            ``(H, W)`` float32 distance to the nearest cell wall in µm, and ``(H, W)`` float32 in [0, 1),
            one random value for each cell.
        """
        rng, step = self.rng, max(self.pixel_um, spacing_um / 24)
        side = int(np.hypot(*self.extent_um) / step) + 8
        seeds = (lattice((side * step, side * step), spacing_um, rng) / step).astype(int).clip(0, side - 1)
        blank = np.ones((side, side), np.uint8)
        blank[seeds[:, 0], seeds[:, 1]] = 0
        _, label = cv2.distanceTransformWithLabels(blank, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
        wall = np.ones((side, side), np.uint8)
        wall[:, 1:] &= label[:, 1:] == label[:, :-1]
        wall[1:] &= label[1:] == label[:-1]
        distance = cv2.distanceTransform(wall, cv2.DIST_L2, 5) * np.float32(step)
        value = rng.random(label.max() + 1, np.float32)[label]
        y, x = self.bent(warp_um, 1.2 * spacing_um, rng.uniform(0, np.pi))
        narrow = float(np.sqrt(stretch))
        y, x = y / (step * narrow) + side / 2, x * (narrow / step) + side / 2
        return (
            cv2.remap(distance, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT),
            cv2.remap(value, x, y, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REFLECT),
        )

    def bent(self, warp_um: float, scale_um: float, angle: float) -> tuple[np.ndarray, np.ndarray]:
        """``(H, W)`` float32 coordinates (y, x) in µm about the centre, turned by an angle in radians and warped."""
        height, width = self.inside.shape
        y = ((np.arange(height, dtype=np.float32) - height / 2) * self.pixel_um)[:, None]
        x = ((np.arange(width, dtype=np.float32) - width / 2) * self.pixel_um)[None]
        sin, cos = np.float32(np.sin(angle)), np.float32(np.cos(angle))
        warp = np.float32(warp_um)
        return y * cos - x * sin + warp * self.noise(scale_um), y * sin + x * cos + warp * self.noise(scale_um)

    def fibres(self, angle: float, *, width_um: float = 3.0, wave_um: float = 12.0) -> np.ndarray:
        """``(H, W)`` float32 in [0, 1], wavy bundles of fibres that run in a direction (radians from the x axis)."""
        y, x = self.bent(wave_um, 70.0, angle)
        side = int(np.hypot(*self.extent_um) + 100)  # a texture of 1 µm pixels, long in x
        grain = noise((side, side // 8 + 2), 1.0, width_um, self.rng) + noise(
            (side, side // 8 + 2), 1.0, 12.0, self.rng
        )
        grain = cv2.remap(grain, x / 8 + side / 16, y + side / 2, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        bundles: np.ndarray = np.clip(0.5 + 0.35 * grain, 0, 1)
        return bundles

    def nuclei(
        self,
        spacing_um: float,
        chance: np.ndarray,
        size_um: tuple[float, float],
        *,
        angle: float | np.ndarray | None = None,
        dark: float = 1.0,
        marked: float = 0.05,
    ) -> None:
        """Draw nuclei one by one.

        Args:
            spacing_um: Approximate least distance between neighbours.
            chance: ``(H, W)`` in [0, 1], chance that a nucleus stands at a point.
            size_um: Long and short diameter; each nucleus varies by 15 %.
            angle: Direction of the long diameter in radians, as a number or an ``(H, W)`` map; ``None``: any.
            dark: Density of haematoxylin.
            marked: Share of cells that the antibody of an immunostain finds.
        """
        rng = self.rng
        points = lattice(self.extent_um, spacing_um, rng)
        points = points[rng.random(len(points)) < self.at(np.asarray(chance, np.float32) * (self.inside > 2), points)]
        count = len(points)
        if angle is None:
            turns = rng.uniform(0, np.pi, count)
        else:
            turns = rng.normal(0, 0.2, count) + (self.at(angle, points) if isinstance(angle, np.ndarray) else angle)
        axes = np.array(size_um) / 2 * rng.lognormal(0, 0.15, (count, 2)) / self.pixel_um
        tone = np.clip(dark * rng.normal(1, 0.16, count), 0.15, 1.4)
        mark = rng.random(count) < marked
        ink, halo = np.zeros((2, *self.inside.shape), np.uint8)
        centres = np.rint(points[:, ::-1] / self.pixel_um * 16).astype(int).tolist()
        sizes = np.rint(axes * 16).astype(int).tolist()
        degrees = np.rad2deg(turns).tolist()
        for centre, size, turn, value, found in zip(
            centres, sizes, degrees, (tone * 180).tolist(), mark.tolist(), strict=True
        ):
            box = (centre, size, turn)
            _ellipse(ink, box, value)
            if found:
                _ellipse(halo, (centre, [2 * size[0], 2 * size[1]], turn), 200)
        self.layers["nuclei"] = np.maximum(self.layers["nuclei"], ink.astype(np.float32) / 180)
        self.layers["marked"] = np.maximum(self.layers["marked"], halo.astype(np.float32) / 200)

    def place(self, radius_um: tuple[float, float], share: float, gap_um: float) -> list[tuple[float, float, float]]:
        """Place discs at random, without overlap: the first inside the field if it fits, others also across its border.

        Args:
            radius_um: Least and greatest radius; the greatest is cut to a third of the field.
            share: Share of the field to cover, on average; one disc is always there.
            gap_um: Least gap between discs.

        Returns:
            (y, x, radius) of each disc in µm.
        """
        rng, (height, width) = self.rng, self.extent_um
        low, high = radius_um[0], max(radius_um[0], min(radius_um[1], 0.32 * min(height, width)))
        radius = rng.uniform(low, high)
        if 2.2 * radius < min(height, width):
            tries = rng.uniform(1.05 * radius, (height - 1.05 * radius, width - 1.05 * radius), (40, 2))
            clear = self.at(self.inside, tries) >= 1.05 * radius
            y, x = tries[clear.argmax() if clear.any() else self.at(self.inside, tries).argmax()]
        else:  # a field smaller than the unit: let the outline pass near the middle
            turn = rng.uniform(0, 2 * np.pi)
            y, x = height / 2 + 0.8 * radius * np.sin(turn), width / 2 + 0.8 * radius * np.cos(turn)
        discs = [(float(y), float(x), float(radius))]
        wanted = share * height * width / (np.pi * ((low + high) / 2) ** 2) - 1
        for _ in range(20 * rng.poisson(max(wanted, 0.0))):
            radius = rng.uniform(low, high)
            y, x = rng.uniform(-0.6 * radius, (height + 0.6 * radius, width + 0.6 * radius))
            near = any(np.hypot(y - v, x - u) < radius + r + gap_um for v, u, r in discs)
            if not near and self.at(self.inside, np.array([[y, x]]))[0] > 0.3 * radius and len(discs) < wanted + 1:
                discs.append((float(y), float(x), float(radius)))
        return discs


def _ellipse(image: np.ndarray, box: tuple[list[int], list[int], float], value: float) -> None:
    centre, axes, turn = box
    cv2.ellipse(image, centre, axes, turn, 0, 360, min(value, 255), -1, cv2.LINE_AA, 4)


def noise(shape: tuple[int, ...], pixel_um: float, scale_um: float, rng: np.random.Generator) -> np.ndarray:
    """Smooth ``shape`` float32 noise, mean 0, standard deviation about 1: random values, interpolated cubically."""
    zoom = max(scale_um / pixel_um, 1.0)
    grid = [int(np.ceil(side / zoom)) + 4 for side in shape]
    coarse = rng.standard_normal(grid, np.float32)
    y, x = rng.uniform(1, 2, 2)
    matrix = np.array([[1 / zoom, 0, x], [0, 1 / zoom, y]], np.float64)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    fine: np.ndarray = cv2.warpAffine(coarse, matrix, (shape[1], shape[0]), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return 1.35 * fine


def lattice(extent_um: tuple[float, float], spacing_um: float, rng: np.random.Generator) -> np.ndarray:
    """Jittered hexagonal ``(n, 2)`` points (y, x) in µm over a field: evenly spread but not regular."""
    rows, columns = int(extent_um[0] / spacing_um / 0.866) + 2, int(extent_um[1] / spacing_um) + 2
    y, x = np.mgrid[:rows, :columns].astype(float)
    points = np.stack([y * 0.866, x + 0.5 * (y % 2)], -1).reshape(-1, 2) + rng.normal(0, 0.2, (rows * columns, 2))
    points = points * spacing_um - rng.uniform(0, spacing_um, 2)
    return points[((points >= 0) & (points < extent_um)).all(1)]


def outline(
    disc: tuple[float, float, float],
    rng: np.random.Generator,
    *,
    rough: float = 0.05,
    aspect: float = 1.0,
    turn: float | None = None,
) -> np.ndarray:
    """Irregular closed outline that just fits into a disc.

    ``r(t) = 1 + sum_k a_k cos(k t + p_k)``, k from 2 to 7, with ``a_k`` falling as ``rough / sqrt(k / 2)``.

    Returns:
        ``(96, 2)`` vertices (y, x) in µm.
    """
    y, x, radius = disc
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    order = np.arange(2, 8)[:, None]
    waves = rng.normal(0, rough, (6, 1)) / np.sqrt(order / 2) * np.cos(order * t + rng.uniform(0, 2 * np.pi, (6, 1)))
    r = np.clip(1 + waves.sum(0), 0.45, None)
    v, u = r * np.sin(t) / aspect, r * np.cos(t)
    turn = rng.uniform(0, np.pi) if turn is None else turn
    v, u = v * np.cos(turn) + u * np.sin(turn), u * np.cos(turn) - v * np.sin(turn)
    scale = radius / np.hypot(v, u).max()
    return np.stack([y + scale * v, x + scale * u], 1)


def shrunk(polygon: np.ndarray, factor: float) -> np.ndarray:
    """Scale a polygon, ``(n, 2)`` in µm, about its centre."""
    centre = polygon.mean(0)
    scaled: np.ndarray = centre + factor * (polygon - centre)
    return scaled
