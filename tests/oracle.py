# SPDX-License-Identifier: Apache-2.0
"""The frame cache in plain NumPy, float64: what the C++ must agree with, written for reading.

A view is a pair (pose, focal): pose float64 [4, 4] camera-to-world in metres, focal (fx, fy) in
units of image width and height. A world is a list of (id, view) in order of insertion.
"""

from dataclasses import dataclass, field

import numpy as np

DOUBT = 5e-6  # metres: a point this near to a frustum's border may round to either side


@dataclass(frozen=True)
class Retrieval:
    context: int = 4
    sinks: int = 1
    recent: int = 1
    near: float = 0.3
    far: float = 10.0


def points(view, r):
    """The 64 samples of a view's frustum, relative to its position: float64 [64, 3], metres."""
    pose, (fx, fy) = view
    strata = (np.arange(4) + 0.5) / 4
    depths = np.cbrt(strata * r.far**3 + (1 - strata) * r.near**3)
    across = (np.arange(4) + 0.5) / 2 - 1
    z, y, x = np.meshgrid(depths, across, across, indexing="ij")
    local = np.stack([x * z * 0.5 / fx, y * z * 0.5 / fy, z], axis=-1).reshape(64, 3)
    return local @ pose[:3, :3].T


def slack(view, offsets, origin, r):
    """How far inside the view's frustum each point origin + offsets [n, 3] lies; < 0: outside.

    Of many views at once if its parts are float64 [views, 4, 4] and [views, 2].
    """
    pose, focal = view
    fx, fy = np.asarray(focal).T[..., None]
    local = (offsets + (origin - pose[..., None, :3, 3])) @ pose[..., :3, :3]
    x, y, z = np.moveaxis(local, -1, 0)
    sides = np.minimum(z * 0.5 / fx - np.abs(x), z * 0.5 / fy - np.abs(y))
    return np.minimum(np.minimum(z - r.near, r.far * 1.05 - z), sides)


def masks(world, query, r):
    """(seen, sure): bool [n, 64], which samples each frame sees; whether none is in doubt."""
    if not world:
        return np.zeros((0, 64), bool), True
    views = map(np.array, zip(*(view for _, view in world), strict=True))
    inside = slack(views, points(query, r), query[0][:3, 3], r)
    return inside >= 0, bool((np.abs(inside) > DOUBT).all())


def proxy(view, query, r):
    """Distance of two frusta: between their centroids, in units of far, plus the turn."""
    (a, _), (b, _) = view, query
    between = (a[:3, 3] - b[:3, 3]) + 0.72 * r.far * (a[:3, 2] - b[:3, 2])
    return np.linalg.norm(between) / r.far + 0.35 * (1 - a[:3, 2] @ b[:3, 2])


def fixed(n, r):
    """Indices that are in every context: the first frames, then the latest, newest first."""
    first = list(range(min(r.sinks, n)))
    latest = [n - 1 - i for i in range(min(r.recent, n))]
    return first + [i for i in latest if i not in first]


def choices(seen, taken):
    """(candidates, gain): the frames of equal merit of which the nearest comes next."""
    left = ~seen[taken].any(axis=0)
    free = [i for i in range(len(seen)) if i not in taken]
    gains = (seen & left).sum(axis=1)
    best = gains[free].max()
    if best > 0:
        return [i for i in free if gains[i] == best], best
    return [i for i in free if seen[i].any()] or free, 0


def plan(world, query, r):
    """(ids, support) of the context for a view."""
    seen, _ = masks(world, query, r)
    near = [proxy(view, query, r) for _, view in world]
    taken = fixed(len(world), r)
    while len(taken) < min(len(world), r.context):
        candidates, _ = choices(seen, taken)
        taken.append(min(candidates, key=lambda i: (near[i], world[i][0])))
    return [world[i][0] for i in taken], support(seen, taken)


def support(seen, taken):
    return float(seen[taken].any(axis=0).mean()) if len(taken) else 0.0


def audit(world, query, r, ids):
    """Asserts that ids is a right context, pick by pick: of the largest gain, of those the nearest
    (to the rounding of float32), of identical ones the smallest id. Returns its support."""
    index = {id: i for i, (id, _) in enumerate(world)}
    chosen = [index[id] for id in ids]
    assert len(set(chosen)) == len(chosen) == min(len(world), r.context)
    seen, _ = masks(world, query, r)
    near = np.array([proxy(view, query, r) for _, view in world])
    taken = fixed(len(world), r)
    assert chosen[: len(taken)] == taken
    for pick in chosen[len(taken) :]:
        candidates, gain = choices(seen, taken)
        assert pick in candidates, f"{pick} adds less than {gain} points"
        assert near[pick] <= near[candidates].min() + 1e-5
        same = [i for i in candidates if np.array_equal(world[i][1][0], world[pick][1][0])]
        assert world[pick][0] == min(world[i][0] for i in same)
        taken.append(pick)
    return support(seen, taken)


@dataclass
class Memory:
    """Which frames stay: insertion and eviction, one frame at a time."""

    r: Retrieval
    capacity: int
    world: list = field(default_factory=list)
    used: dict = field(default_factory=dict)  # id -> when last planned or inserted
    witnesses: dict = field(default_factory=dict)  # id -> up to three newer ids that see the same
    clock: int = 0

    def use(self, ids):
        self.clock += 1
        self.used.update(dict.fromkeys(ids, self.clock))

    def insert(self, id, view):
        if len(self.world) == self.capacity:
            self._evict()
        for older, seen in self.world:
            if len(self.witnesses[older]) < 3 and self._stands_in(view, seen):
                self.witnesses[older].append(id)
        self.world.append((id, view))
        self.witnesses[id] = []
        self.use([id])

    def _stands_in(self, view, older):
        origin = older[0][:3, 3]
        centroid = 0.72 * self.r.far * older[0][:3, 2]
        if slack(view, centroid[None], origin, self.r)[0] < 0:
            return False
        return (slack(view, points(older, self.r), origin, self.r) >= 0).sum() >= 58

    def _evict(self):
        free = self.world[self.r.sinks : len(self.world) - self.r.recent]
        victim = min(free, key=lambda f: (len(self.witnesses[f[0]]) < 3, self.used[f[0]]))
        self.world.remove(victim)
        for names in self.witnesses.values():
            if victim[0] in names:
                names.remove(victim[0])
