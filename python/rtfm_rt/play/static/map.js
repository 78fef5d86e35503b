// SPDX-License-Identifier: Apache-2.0
// The memory seen from above: forward at the first pose is up, home is the cross in the middle.

const SIGHT = 0.65; // radians from the middle of a view to its side
const colours = getComputedStyle(document.documentElement);
const colour = (name) => colours.getPropertyValue(`--${name}`).trim();

// entries: [{id, x, z, yaw}], lit: a Set of ids, you: {x, z, yaw}, way: whether the entries are one
export function drawMap(canvas, entries, lit, you, way) {
  const side = canvas.clientWidth;
  const sharp = devicePixelRatio || 1;
  const pixels = Math.round(side * sharp);
  if (canvas.width !== pixels) canvas.width = canvas.height = pixels;
  const g = canvas.getContext("2d");
  g.setTransform(sharp, 0, 0, sharp, 0, 0);
  g.clearRect(0, 0, side, side);

  const far = [you, ...entries].reduce((most, e) => Math.max(most, Math.hypot(e.x, e.z)), 0);
  const metres = Math.max(1, Math.ceil((far + 0.3) * 2) / 2); // from the middle to the rim
  const scale = side / 2 / metres;
  const at = (e) => [side / 2 + e.x * scale, side / 2 - e.z * scale];

  rings(g, side, scale, metres);
  const size = Math.max(6, Math.min(15, scale * 0.2));
  if (way) line(g, entries.map(at));
  else for (const e of entries) if (!lit.has(e.id)) view(g, at(e), e.yaw, size, colour("kept"), 0.75);
  for (const e of entries) {
    if (!lit.has(e.id)) continue;
    view(g, at(e), e.yaw, size * 1.35, colour("amber"), way ? 0.6 : 1);
    if (way) continue;
    g.strokeStyle = colour("amber");
    g.globalAlpha = 0.4;
    g.setLineDash([2, 3]);
    g.beginPath();
    g.moveTo(...at(e));
    g.lineTo(...at(you));
    g.stroke();
    g.setLineDash([]);
    g.globalAlpha = 1;
  }
  arrow(g, at(you), you.yaw);
}

function rings(g, side, scale, metres) {
  g.lineWidth = 1;
  g.strokeStyle = colour("rule");
  for (let r = 1; r < metres * 1.42; r += metres > 4 ? 2 : 1) {
    g.beginPath();
    g.arc(side / 2, side / 2, r * scale, 0, 7);
    g.stroke();
  }
  g.beginPath();
  for (const [dx, dy] of [[5, 0], [0, 5]]) {
    g.moveTo(side / 2 - dx, side / 2 - dy);
    g.lineTo(side / 2 + dx, side / 2 + dy);
  }
  g.strokeStyle = colour("dim");
  g.stroke();
}

function line(g, points) {
  g.strokeStyle = colour("kept");
  g.lineWidth = 2;
  g.beginPath();
  for (const point of points) g.lineTo(...point);
  g.stroke();
  g.lineWidth = 1;
}

function view(g, [x, y], yaw, size, fill, alpha) {
  const middle = yaw - Math.PI / 2;
  g.fillStyle = fill;
  g.globalAlpha = alpha * 0.3;
  g.beginPath();
  g.moveTo(x, y);
  g.arc(x, y, size, middle - SIGHT, middle + SIGHT);
  g.fill();
  g.globalAlpha = alpha;
  g.beginPath();
  g.arc(x, y, Math.max(1.6, size * 0.18), 0, 7);
  g.fill();
  g.globalAlpha = 1;
}

function arrow(g, [x, y], yaw) {
  g.save();
  g.translate(x, y);
  g.rotate(yaw);
  g.fillStyle = colour("mint");
  g.strokeStyle = colour("lcd");
  g.lineWidth = 1.5;
  g.beginPath();
  g.moveTo(0, -8);
  g.lineTo(5.5, 6);
  g.lineTo(0, 3);
  g.lineTo(-5.5, 6);
  g.closePath();
  g.fill();
  g.stroke();
  g.restore();
}
