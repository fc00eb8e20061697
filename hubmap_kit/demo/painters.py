"""The painters of the five organs: their functional tissue units, and what lies around them."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from .canvas import Canvas, outline, shrunk


def _vessel(c: Canvas, chance: float, radius_um: tuple[float, float], taken: np.ndarray) -> None:
    """A vessel beside the units, with a muscular wall, an empty or blood-filled lumen and an elastic lamina."""
    if c.rng.random() > chance:
        return
    height, width = c.extent_um
    radius = c.rng.uniform(*radius_um)
    clear = c.depth(~taken)
    for _ in range(20):
        y, x = c.rng.uniform(0, (height, width))
        if c.at(clear, np.array([[y, x]]))[0] > 1.05 * radius:
            wall = c.region([outline((y, x, radius), c.rng, rough=0.03, aspect=c.rng.uniform(1, 1.6))])
            break
    else:
        return
    depth = c.depth(wall)
    lumen = depth > 0.4 * radius + 1.5 * c.noise(12)
    c.add(wall, stroma=0.8 + 0.25 * np.sin(depth * 1.6 + c.noise(15)), mucin=0.12)
    c.add(lumen, blood=0.7 * (c.noise(3.5) > 0.2) if c.rng.random() < 0.5 else 0)
    tangent = np.arctan2(cv2.Sobel(depth, -1, 0, 1), cv2.Sobel(depth, -1, 1, 0)) + np.pi / 2
    c.nuclei(8, 0.6 * (wall & ~lumen & (depth > 1)), (9, 2.6), angle=tangent)


def kidney(c: Canvas) -> None:
    """Cortex: glomeruli of 120 to 180 µm in Bowman's capsule, among packed tubules of 40 to 60 µm."""
    rng = c.rng
    capsules = [outline(d, rng, rough=0.035, aspect=rng.uniform(1, 1.3)) for d in c.place((62, 100), 0.04, 25)]
    glomerulus = c.region(capsules)
    wall, kind = c.cells(rng.uniform(46, 54), stretch=rng.uniform(1.0, 1.9), warp_um=7)
    proximal = kind < 0.62
    thick = np.where(proximal, 13.5, 9.0).astype(np.float32) + 1.6 * c.noise(7)
    tubule, lumen, grain = wall > 1.8, wall > thick, c.noise(1.5)
    c.add(~tubule, stroma=0.55 + 0.12 * grain, blood=0.5 * (c.noise(9) > 0.9))
    c.add(tubule, epithelium=np.where(proximal, 1.0, 0.62) * (1 + 0.16 * grain))
    c.add(lumen, mucin=0.10 * (c.noise(6) > 0.6))
    c.layers["mucin"] += 0.75 * np.exp(-(((wall - 2.0) / 0.8) ** 2)) + 0.45 * proximal * np.exp(-((wall - thick) ** 2))
    c.nuclei(8.2, 0.62 * (tubule & (wall > 4) & (wall < 8) & ~lumen), (6.6, 5.8))
    c.nuclei(9, 0.35 * (wall < 1.5), (6.5, 2.6))
    _vessel(c, 0.35, (25, 55), glomerulus)
    depth = c.depth(glomerulus)
    space = np.maximum(1.5, 6.5 + 2.8 * c.noise(26) + 1.6 * c.noise(9))
    tuft = depth > space
    loop, filled = c.cells(15, stretch=1.6, warp_um=5)
    lobe = c.cells(42, warp_um=6)[0]  # clefts part the tuft into lobules
    c.add(glomerulus)
    c.add(
        tuft,
        epithelium=0.7 * (loop < 2.8) * (lobe > 1.2) + 0.08,
        mucin=0.8 * (loop < 1.1) * (lobe > 1.2) + 0.08,
        blood=0.6 * ((loop > 2.4) & (filled > 0.6)),
    )
    c.add(glomerulus & (depth < 1.5), mucin=0.8, stroma=0.5)
    c.nuclei(6.8, 0.72 * (tuft & (depth > space + 1) & (loop < 4.5) & (lobe > 0.8)), (5.8, 4.6), dark=0.9)
    c.nuclei(9, 0.7 * (glomerulus & (depth < 2.5)), (7, 2.2), angle=_tangent(depth))
    c.mask[glomerulus] = 1


def prostate(c: Canvas) -> None:
    """Acini with folded epithelium and open lumens in fibromuscular stroma."""
    rng = c.rng
    discs = c.place((55, 150), 0.48, 6)
    acini = c.region([outline(d, rng, rough=0.10, aspect=rng.uniform(1, 1.6)) for d in discs])
    angle = rng.uniform(0, np.pi)
    fibre, cross = c.fibres(angle, wave_um=20), c.fibres(angle + 1.2, wave_um=20)
    bundle = np.clip(0.5 + 1.5 * c.noise(90), 0, 1)  # bundles of muscle that run two ways
    fibre = bundle * fibre + (1 - bundle) * cross
    direction = np.where(bundle > 0.5, angle, angle + 1.2)
    everywhere = np.ones_like(acini)
    c.add(everywhere, stroma=0.45 + 0.6 * fibre + 0.06 * c.noise(1.5), mucin=0.08 * (c.noise(25) > 0.8))
    c.nuclei(11, 0.15 + 0.5 * fibre, (10, 2.9), angle=direction, dark=0.9)
    _vessel(c, 0.4, (25, 60), acini)
    depth = c.depth(acini)
    ridge = np.clip(1.6 * c.noise(26) + 0.5 * c.noise(12) - 0.2, 0, 1.6)  # papillae that reach into the lumen
    folds = 15 + 3 * c.noise(9) + 20 * ridge
    lumen = depth > folds
    c.add(acini, epithelium=0.85 + 0.12 * c.noise(2) + 0.1 * (folds - depth < 3))
    c.add(lumen, mucin=0.12 * np.clip(c.noise(30) + 0.3 * c.noise(4), 0, 1))
    c.add(acini & (depth < 1.2), stroma=0.9, mucin=0.6)
    edge = c.depth(acini & ~lumen)
    c.nuclei(5.2, 0.9 * (acini & ~lumen & (edge > 2.2) & (edge < 7.5)), (7, 4.6), angle=_tangent(depth) + np.pi / 2)
    stones = [(y, x, rng.uniform(8, 16)) for y, x, r in discs if r > 80 and rng.random() < 0.25]
    stone = c.region([outline(s, rng, rough=0.02) for s in stones]) & lumen
    c.add(stone, mucin=0.55 + 0.2 * np.sin(c.depth(stone)), epithelium=0.6)
    c.mask[acini] = 1


def large_intestine(c: Canvas) -> None:
    """Crypts of 60 to 110 µm in rows in the lamina propria; in part of the fields also what lies below them."""
    rng, (height, width) = c.rng, c.extent_um
    size, turn, aspect = rng.uniform(33, 44), rng.uniform(0, np.pi), rng.choice([1.0, 1.15, 1.5])
    (y0, x0, _), *_ = c.place((size, size + 1), 0.0, 0)
    pitch = size * rng.uniform(2.9, 4.2)
    reach = int(np.hypot(height, width) / pitch) + 2
    v, u = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1) * pitch
    v, u = v * 0.866 / aspect**0.5, u + 0.5 * (np.round(v / pitch) % 2) * pitch
    grid = np.stack([y0 + v * np.cos(turn) + u * np.sin(turn), x0 + u * np.cos(turn) - v * np.sin(turn)], 1)
    jitter = rng.normal(0, 0.07 * pitch, grid.shape) * (np.hypot(v, u) > 1)[:, None]
    bottom = rng.uniform(0.8, 3.0) * pitch if rng.random() < 0.65 else 1e4
    side = rng.uniform(0, 2 * np.pi)
    yy, xx = np.indices(c.inside.shape, np.float32) * np.float32(c.pixel_um)
    below = (yy - y0) * np.float32(np.sin(side)) + (xx - x0) * np.float32(np.cos(side)) - bottom + 8 * c.noise(60)
    on_field = ((grid > -size) & (grid < (height + size, width + size))).all(1)
    kept = on_field & (c.at(c.inside, grid) > 0.4 * size) & (c.at(below, grid) < -1.15 * size)
    kept |= np.hypot(v, u) < 1
    glands = [
        outline((y, x, size * rng.uniform(0.85, 1.2) * aspect**0.5), rng, rough=0.03, aspect=aspect, turn=turn)
        for y, x in (grid + jitter)[kept]
    ]
    crypt = c.region(glands)
    lumen = c.region([shrunk(g, rng.uniform(0.10, 0.28)) for g in glands])
    grain = c.noise(2)
    c.add(np.ones_like(crypt), stroma=np.clip(0.42 + 0.2 * c.noise(10) + 0.1 * grain, 0.1, 1))
    c.nuclei(8.0, 0.55 + 0.2 * c.noise(40), (5.2, 4.4), dark=0.9, marked=0.08)
    fibre = c.fibres(np.pi / 2 - side, width_um=2.5, wave_um=5)
    deep = below > 0
    c.add(deep, stroma=np.where(below < 32, 0.55 + 0.5 * fibre, np.clip(1.6 * c.fibres(turn) - 0.45, 0, 1)))
    c.nuclei(13, 0.5 * (deep & (below < 32)), (11, 2.8), angle=np.pi / 2 - side)
    c.nuclei(16, 0.5 * (below > 32), (8, 3))
    _vessel(c, 0.6, (15, 35), below < 45)
    depth = c.depth(crypt)
    drop, kind = c.cells(9.5, stretch=1.3, warp_um=1.5)
    goblet = (depth > 8) & (drop > 1.0) & (kind < rng.uniform(0.55, 0.85)) & ~lumen
    c.add(crypt, epithelium=0.8 + 0.12 * grain)
    c.add(goblet, mucin=0.55 + 0.1 * grain, epithelium=0.06)
    c.add(lumen, mucin=0.25 * (c.noise(6) > 0))
    c.add(crypt & (depth < 1.0), stroma=0.8, mucin=0.55)
    c.nuclei(
        4.6, 0.95 * (crypt & (depth > 2.4) & (depth < 7)), (6.6, 4.0), angle=_tangent(depth) + np.pi / 2, dark=1.05
    )
    c.mask[crypt] = 1


def spleen(c: Canvas) -> None:
    """White pulp follicles with a paler germinal centre and a central arteriole, in red pulp with sinuses."""
    rng = c.rng
    follicles = [outline(d, rng, rough=0.06, aspect=rng.uniform(1, 1.4)) for d in c.place((105, 225), 0.12, 40)]
    pulp = c.region(follicles)
    wall, kind = c.cells(19, stretch=2.2, warp_um=9)
    sinus = (wall > 3.2) & (kind < 0.62)
    grain = c.noise(1.6)
    everywhere = np.ones_like(pulp)
    c.add(everywhere, stroma=0.75 + 0.15 * grain, blood=0.5 * (c.noise(6) > 0.1))
    c.add(sinus, blood=0.55 * (c.noise(4) > 0.35), stroma=0.06)
    c.nuclei(7.4, np.where(sinus, 0.14, 0.62), (5.6, 4.3), dark=0.85, marked=0.12)
    for _ in range(rng.poisson(0.7)):  # trabeculae
        y, _ = c.bent(10, 90, rng.uniform(0, np.pi))
        off, thick = rng.uniform(-0.4, 0.4) * min(c.extent_um), rng.uniform(10, 26)
        band = (np.abs(y - np.float32(off)) < thick + 4 * c.noise(40)) & ~pulp
        c.add(band, stroma=1.0 + 0.15 * grain, mucin=0.1)
        c.nuclei(13, 0.5 * band, (10, 2.6))
    _vessel(c, 0.4, (30, 60), pulp)
    depth = c.depth(pulp)
    rim = np.clip((depth + 3 * c.noise(12)) / 9, 0, 1)
    germinal = c.region([shrunk(f, rng.uniform(0.35, 0.55)) for f in follicles if rng.random() < 0.75])
    c.add(pulp & (rim > rng.random(pulp.shape, np.float32)), epithelium=0.34 + 0.08 * grain, stroma=0.2)
    c.nuclei(4.9, 0.97 * (pulp & ~germinal & (rim > 0.4)), (5.0, 4.6), dark=1.0, marked=0.02)
    c.add(germinal, epithelium=0.6 + 0.1 * grain)
    c.nuclei(6.4, 0.85 * germinal, (6.6, 5.6), dark=0.72, marked=0.02)
    for f in follicles:
        centre = f.mean(0) + rng.normal(0, 0.25, 2) * np.ptp(f, 0) / 2
        artery = c.region([outline((*centre, rng.uniform(10, 17)), rng, rough=0.03)]) & pulp
        inner = c.depth(artery)
        c.add(artery, stroma=1.0, mucin=0.25)
        c.add(artery & (inner > 5.5))
        c.nuclei(6, 0.7 * (artery & (inner > 0.5) & (inner < 5)), (7, 2.4), angle=_tangent(inner))
    c.mask[pulp] = 1


def lung(c: Canvas) -> None:
    """Open alveoli of 100 to 170 µm with their septa, in collapsed, cellular parenchyma with slits of air."""
    rng = c.rng
    discs = c.place((52, 88), 0.03, 4)
    alveolus = c.region([outline(d, rng, rough=0.05, aspect=rng.uniform(1, 1.35)) for d in discs])
    wall, kind = c.cells(rng.uniform(30, 38), stretch=rng.uniform(2.2, 3.2), warp_um=14)
    thick = 5.5 + 4.5 * kind + 2.2 * c.noise(12)
    air = (wall > thick) & (kind < 0.75)
    grain = c.noise(1.8)
    c.add(np.ones_like(air), epithelium=0.5 + 0.1 * grain, stroma=0.4, blood=0.55 * (c.noise(6) > 0.7))
    c.add(air)
    c.nuclei(7.2, 0.6 * ~air, (6.4, 4.4), marked=0.1)
    c.nuclei(30, 0.3 * air, (8, 7), marked=0.5)
    if rng.random() < 0.4:
        _bronchiole(c, alveolus)
    _vessel(c, 0.5, (25, 60), alveolus)
    depth = c.depth(alveolus)
    septum = 4.5 + 1.3 * c.noise(9)
    c.add(alveolus, epithelium=0.55 + 0.1 * grain, stroma=0.35, mucin=0.2, blood=0.45 * (c.noise(6) > 0.4))
    c.add(depth > septum)
    c.nuclei(7.5, 0.65 * (alveolus & (depth > 1) & (depth < septum)), (7, 3.4), angle=_tangent(depth), marked=0.1)
    c.nuclei(45, 0.35 * (depth > 14), (9, 8), marked=0.5)
    c.mask[alveolus] = 1


def _bronchiole(c: Canvas, taken: np.ndarray) -> None:
    """A small airway beside the alveoli: columnar, folded epithelium on smooth muscle."""
    clear = c.depth(~taken)
    y, x = np.array(np.unravel_index(clear.argmax(), clear.shape)) * c.pixel_um
    radius = min(float(clear.max()) - 4, c.rng.uniform(60, 110))
    if radius < 40:
        return
    airway = c.region([outline((y, x, radius), c.rng, rough=0.05, aspect=1.2)])
    depth = c.depth(airway)
    lumen = depth > 30 + 5 * c.noise(16)
    c.add(airway, stroma=0.75 + 0.2 * c.noise(4))
    c.add(airway & (depth > 12), epithelium=0.95 + 0.1 * c.noise(2))
    c.add(lumen)
    c.nuclei(10, 0.6 * (airway & (depth < 11)), (10, 2.8), angle=_tangent(depth))
    c.nuclei(4.8, 0.95 * (airway & ~lumen & (depth > 13) & (depth < 21)), (8, 3.8), angle=_tangent(depth) + np.pi / 2)


def _tangent(depth: np.ndarray) -> np.ndarray:
    """``(H, W)`` float32 direction of the nearest outline in radians from the x axis."""
    smooth = cv2.GaussianBlur(depth, (0, 0), 3)
    across: np.ndarray = np.arctan2(cv2.Sobel(smooth, -1, 0, 1), cv2.Sobel(smooth, -1, 1, 0))
    return across + np.float32(np.pi / 2)


PAINTERS: dict[str, Callable[[Canvas], None]] = {
    "kidney": kidney,
    "prostate": prostate,
    "largeintestine": large_intestine,
    "spleen": spleen,
    "lung": lung,
}
