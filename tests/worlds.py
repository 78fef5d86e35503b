# SPDX-License-Identifier: Apache-2.0
"""Large worlds for the frame cache: camera-to-world float64 [n, 4, 4], metres, y down."""

import numpy as np

FOCAL = (0.65, 0.65)


def cameras(position, yaw, pitch):
    """Cameras without roll at position [n, 3], turned by yaw and pitch [n] radians."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    zero = np.zeros_like(cy)
    matrices = np.tile(np.eye(4), (len(yaw), 1, 1))
    matrices[:, 0, :3] = np.stack([cy, sy * sp, sy * cp], axis=1)
    matrices[:, 1, :3] = np.stack([zero, cp, -sp], axis=1)
    matrices[:, 2, :3] = np.stack([-sy, cy * sp, cy * cp], axis=1)
    matrices[:, :3, 3] = position
    return matrices


def ahead(yaw, metres):
    return metres * np.stack([np.sin(yaw), np.zeros_like(yaw), np.cos(yaw)], axis=1)


def folded(position, side):
    """Within 0 .. side, by reflection."""
    return side - np.abs(position % (2 * side) - side)


def walk(g, n):
    """Steps of 5 cm over an area that grows with n: every place is passed many times."""
    side = max(10.0, np.sqrt(n / 2))
    yaw = np.cumsum(g.normal(0, 0.08, n))
    position = folded(np.cumsum(ahead(yaw, 0.05), axis=0), side)
    jumps = np.cumsum(g.random(n) < 5e-4)
    position += g.uniform(0, side, (jumps[-1] + 1, 3))[jumps] * [1, 0, 1]
    return cameras(position, yaw, g.normal(0, 0.1, n))


def path(g, n):
    """Steps of 30 cm through new places: what a session commits, every frame matters."""
    yaw = np.cumsum(g.normal(0, 0.1, n))
    return cameras(np.cumsum(ahead(yaw, 0.3), axis=0), yaw, g.normal(0, 0.05, n))


def room(g, n):
    position = g.uniform(0, 20, (n, 3)) * [1, 0.1, 1]
    return cameras(position, g.uniform(-np.pi, np.pi, n), g.normal(0, 0.1, n))


def drone(g, n):
    position = g.uniform(0, max(10.0, np.cbrt(n / 2)), (n, 3))
    return cameras(position, g.uniform(-np.pi, np.pi, n), g.normal(0, 0.5, n))


def identical(g, n):
    return cameras(np.zeros((n, 3)), np.zeros(n), np.zeros(n))


def facing(g, n):
    """Pairs that look at each other across six metres."""
    i = np.arange(n)
    row, column = np.divmod(i // 2, 1000)
    position = np.stack([8.0 * column, 0.0 * i, 40.0 * row + 6.0 * (i % 2)], axis=1)
    return cameras(position, np.pi * (i % 2), 0.0 * i)[g.permutation(n)]


def teleports(g, n):
    """No frame is near the one before it."""
    position = g.uniform(0, np.sqrt(n), (n, 3)) * [1, 0.2 / np.sqrt(n), 1]
    return cameras(position, g.uniform(-np.pi, np.pi, n), g.normal(0, 0.1, n))


def far_origin(g, n):
    matrices = walk(g, n)
    matrices[:, :3, 3] += [5.7e5, -5.7e5, 5.7e5]
    return matrices


def borders(g, n):
    """Centroids of frusta on the corners of index cells, to either side, and a power of two of
    cells apart, which an unsalted hash that masks low bits would pile up."""
    side, apart = 3.5, 3.5 * 2 ** g.integers(0, 17, (n, 1))
    corner = g.integers(0, 6, (n, 3)) * side + apart * [1, 0, 0]
    matrices = cameras(corner, g.integers(0, 8, n) * np.pi / 4, np.zeros(n))
    matrices[:, :3, 3] += g.choice([-1e-9, 1e-9], (n, 3)) - 7.2 * matrices[:, :3, 2]
    return matrices


WORLDS = [walk, path, room, drone, identical, facing, teleports, far_origin, borders]


def queries(g, world, n):
    """Views close to remembered ones: 30 cm and 20 degrees away in the mean."""
    turn = cameras(np.zeros((n, 3)), g.normal(0, 0.35, n), g.normal(0, 0.08, n))
    views = world[g.integers(len(world), size=n)] @ turn
    views[:, :3, 3] += g.normal(0, 0.3, (n, 3)) * [1, 0.3, 1]
    return views
