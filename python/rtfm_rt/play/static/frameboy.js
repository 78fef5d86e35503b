// SPDX-License-Identifier: Apache-2.0
// The page: one WebSocket, frames to the canvas, receipts to the panels. Messages: play/wire.py.

import { buttons } from "./buttons.js";
import { controls } from "./controls.js";
import { drawMap } from "./map.js";
import { worlds } from "./worlds.js";

const LATE = 2, REMEMBERING = 4, MOVING = 8, MAPPED = 16;
const KEYS = {
  KeyH: "home", KeyM: "memory", KeyK: "save", KeyL: "load", KeyB: "branch", KeyN: "next", KeyX: "drop",
};
const PAD = ["home", "memory", "branch", "next"]; // of a gamepad, where models go by poses
const HEADER = 44, ENTRY = 16;
const SLOWEST = 125, QUICKEST = 12; // ms between the images of a frame
const PIXELS = 200; // of a screen this wide they are squares
const token = new URLSearchParams(location.search).get("token") ?? "";
const $ = (id) => document.getElementById(id);
const screen = $("screen");

let socket = null;
let hello = null;
let waiting = null; // the newest frame that is not drawn yet
let showing = 0; // the timer of the next image of a frame
let entries = []; // of the map
let last = null; // the frame on the screen
let reason = "";

function say(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

// A button or a picture: after the sticks as they are now, which the next tick would tell too late.
function wish(message) {
  tellSticks();
  say(message);
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/walk?token=${encodeURIComponent(token)}`);
  socket.binaryType = "arraybuffer";
  reason = "";
  waiting = null;
  socket.addEventListener("message", ({ data }) => {
    if (typeof data === "string") return heard(JSON.parse(data));
    if (waiting === null && !showing) requestAnimationFrame(draw);
    waiting = data;
  });
  socket.addEventListener("close", () => {
    document.body.dataset.state = "off";
    $("curtain-text").textContent = reason ||
      "The server is gone. Start rtfm-rt play again and open the address that it prints.";
    $("curtain").hidden = false;
  });
}

function heard(message) {
  if (message.error) {
    reason = message.error;
    return;
  }
  if (library.heard(message)) return;
  hello = message;
  document.body.dataset.state = "on";
  $("curtain").hidden = true;
  $("model").textContent = hello.model;
  $("device").textContent = ` · ${hello.device}`;
  fillShelf();
  select(hello.pictures[0]);
  document.body.dataset.by = hello.buttons ? "actions" : "poses";
  if (!hello.buttons) return say({ remember: $("remember").ariaPressed === "true" });
  $("map-title").textContent = "Way, reckoned";
  acts.fill(hello.buttons);
}

// frames

function parse(data) {
  const v = new DataView(data);
  const count = v.getUint8(2), mapped = v.getUint32(16, true);
  const pixels = HEADER + 4 * count + ENTRY * mapped;
  const frame = {
    flags: v.getUint8(0), steps: v.getUint8(1), images: v.getUint8(3),
    width: v.getUint16(4, true), height: v.getUint16(6, true),
    number: v.getUint32(8, true), remembered: v.getUint32(12, true),
    latency: v.getFloat32(20, true), support: v.getFloat32(24, true),
    you: { x: v.getFloat32(28, true), z: v.getFloat32(32, true), yaw: v.getFloat32(36, true) },
    context: new Set(new Uint32Array(data, HEADER, count)),
    rgb: new Uint8Array(data, pixels),
    map: null,
  };
  if (frame.flags & MAPPED) {
    frame.map = Array.from({ length: mapped }, (_, i) => {
      const at = HEADER + 4 * count + ENTRY * i;
      return {
        id: v.getUint32(at, true), x: v.getFloat32(at + 4, true),
        z: v.getFloat32(at + 8, true), yaw: v.getFloat32(at + 12, true),
      };
    });
  }
  return frame;
}

function draw() {
  const frame = parse(waiting);
  waiting = null;
  if (screen.width !== frame.width) screen.width = frame.width;
  if (screen.height !== frame.height) screen.height = frame.height;
  screen.classList.toggle("fine", frame.width > PIXELS);
  say({ ack: frame.number });
  if (frame.map) entries = frame.map;
  last = frame;
  receipt(frame);
  show(frame, 0);
  redraw();
}

// The images of a frame one after the other: as long as it took to make them, within limits.
function show(frame, number) {
  const image = new ImageData(frame.width, frame.height);
  const first = number * 3 * frame.width * frame.height;
  for (let i = first, j = 0; j < image.data.length; j += 4) {
    image.data[j] = frame.rgb[i++];
    image.data[j + 1] = frame.rgb[i++];
    image.data[j + 2] = frame.rgb[i++];
    image.data[j + 3] = 255;
  }
  screen.getContext("2d").putImageData(image, 0, 0);
  const more = number + 1 < frame.images;
  const pace = Math.max(QUICKEST, Math.min(SLOWEST, frame.latency / frame.images));
  showing = more ? setTimeout(show, pace, frame, number + 1) : 0;
  screen.dataset.moving = more || Boolean(frame.flags & MOVING);
  if (!more && waiting !== null) requestAnimationFrame(draw);
}

function redraw() {
  if (last) drawMap($("map"), entries, last.context, last.you, Boolean(hello.buttons));
}

function receipt(frame) {
  const percent = Math.round(frame.support * 100);
  $("latency").textContent = frame.steps ? frame.latency.toFixed(0) : "–";
  $("latency").classList.toggle("late", Boolean(frame.flags & LATE));
  $("steps").textContent = frame.steps || "–";
  $("number").textContent = frame.number;
  $("remembered").textContent = frame.remembered;
  $("support-text").textContent = `${percent} %`;
  $("support").ariaValueNow = percent;
  $("support").firstElementChild.style.width = `${percent}%`;
  screen.dataset.frame = frame.number;
  const { x, z } = frame.you;
  screen.dataset.distance = Math.hypot(x, z).toFixed(3);
  document.body.dataset.memory = frame.flags & REMEMBERING ? "on" : "off";
}

// buttons and pictures

function remember(on) {
  $("remember").ariaPressed = on;
  $("remember-state").textContent = on ? "on" : "off";
  wish({ remember: on });
  notify(on
    ? "Memory on: every frame attends to the whole walk"
    : `Memory off: only the last ${hello?.context ?? "few"} frames exist now`);
}

const library = worlds(token, wish, notify, () => hello, () => select(null));

const actions = {
  ...library.actions,
  home: () => (hello?.buttons
    ? notify("This model goes by actions and knows no poses: there is no way to glide home")
    : wish({ home: true })),
  memory: () => (hello?.buttons
    ? notify(`This model goes by actions: it sees its last frames only, ${hello.context} at most`)
    : remember($("remember").ariaPressed !== "true")),
};

function fillShelf() {
  $("pictures").replaceChildren(...hello.pictures.map((name, i) => {
    const slot = document.createElement("button");
    const image = new Image();
    image.src = `pictures/${encodeURIComponent(name)}?token=${encodeURIComponent(token)}`;
    image.alt = "";
    slot.type = "button";
    slot.className = "slot";
    slot.dataset.name = name;
    slot.ariaLabel = `Walk in picture ${i + 1}, ${name}`;
    slot.append(image);
    slot.addEventListener("click", () => choose(name));
    return slot;
  }));
}

function select(name) {
  for (const slot of document.querySelectorAll("button.slot")) {
    slot.ariaPressed = slot.dataset.name === name;
  }
  document.querySelector(".upload").classList.remove("chosen");
}

function choose(name) {
  wish({ picture: name });
  select(name);
}

async function upload(file) {
  if (file.size > hello.upload_bytes) {
    return notify(`That file is larger than ${hello.upload_bytes >> 20} MB. Choose a smaller one.`);
  }
  const query = new URLSearchParams({ token, visitor: hello.hello });
  try {
    const answer = await fetch(`pictures?${query}`, { method: "POST", body: file });
    const result = await answer.json();
    if (!answer.ok) return notify(result.error);
    select(null);
    document.querySelector(".upload").classList.add("chosen");
    notify(result.cut ? "Your picture, cut to fit from its centre" : "Your picture");
  } catch {
    notify("The picture did not arrive. Is the server still there?");
  }
}

let fading = 0;
function notify(text, ...more) {
  const box = $("notice");
  clearTimeout(fading);
  box.replaceChildren(text, ...more);
  box.hidden = false;
  fading = setTimeout(() => { box.hidden = true; }, 3000 + 40 * text.length);
}

$("home").addEventListener("click", actions.home);
$("remember").addEventListener("click", actions.memory);
$("reconnect").addEventListener("click", connect);
$("upload").addEventListener("change", ({ target }) => {
  if (target.files.length) upload(target.files[0]);
  target.value = "";
});
addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.code in KEYS) {
    event.preventDefault();
    actions[KEYS[event.code]]();
  }
  const name = /^Digit[1-9]$/.test(event.code) && hello?.pictures[event.code.slice(5) - 1];
  if (name) choose(name);
});
addEventListener("resize", redraw);

const acts = buttons($("acts"), (held) => {
  $("hint").classList.add("gone");
  say({ held });
});
const tellSticks = controls($("walk"), $("look"), (stick) => {
  $("hint").classList.add("gone");
  say({ stick });
}, (number, down) => {
  if (hello?.buttons) return down ? acts.press(`pad ${number}`, number + 1) : acts.release(`pad ${number}`);
  if (down) actions[PAD[number]]?.();
});
addEventListener("click", ({ detail }) => detail && document.activeElement?.blur()); // space is a key
connect();
