// SPDX-License-Identifier: Apache-2.0
// Sticks, keys and gamepads, added up to one velocity: [forward, right, yaw, pitch], each -1 to 1.

const DEAD = 0.12; // of a gamepad's stick
const INTERVAL = 16; // ms between two messages, at least
const WALK_KEYS = { KeyW: [1, 0], KeyS: [-1, 0], KeyA: [0, -1], KeyD: [0, 1] };
const ARROWS = { ArrowUp: [1, 0], ArrowDown: [-1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const PAD = 8; // buttons of a gamepad that count

const clamp = (v) => Math.max(-1, Math.min(1, v));

// A stick on the page: `value` is [up, right]; the knob follows the pointer and springs back.
class Stick {
  constructor(element, changed) {
    this.value = [0, 0];
    this.element = element;
    this.knob = element.querySelector("i");
    this.pointer = null;
    const follow = (event) => {
      if (event.pointerId !== this.pointer) return;
      const box = element.getBoundingClientRect();
      const reach = box.width * 0.34;
      let x = (event.clientX - box.left - box.width / 2) / reach;
      let y = (event.clientY - box.top - box.height / 2) / reach;
      const length = Math.hypot(x, y);
      if (length > 1) [x, y] = [x / length, y / length];
      const soft = Math.min(1, length) ** 0.6; // gentle near the centre
      this.value = [-y * soft, x * soft];
      this.show(x, y);
      changed();
    };
    const release = (event) => {
      if (event.pointerId !== this.pointer) return;
      this.pointer = null;
      this.rest();
      changed();
    };
    element.addEventListener("pointerdown", (event) => {
      if (this.pointer !== null) return;
      this.pointer = event.pointerId;
      element.setPointerCapture(event.pointerId);
      element.classList.add("held");
      follow(event);
    });
    element.addEventListener("pointermove", follow);
    element.addEventListener("pointerup", release);
    element.addEventListener("pointercancel", release);
    element.addEventListener("mousedown", (event) => event.preventDefault()); // no focus
    element.addEventListener("contextmenu", (event) => event.preventDefault());
  }

  rest() {
    this.value = [0, 0];
    this.element.classList.remove("held");
    this.show(0, 0);
  }

  show(x, y) { // -1 to 1, right and down
    this.knob.style.transform = `translate(${x * 34}%, ${y * 34}%)`;
  }
}

// send(velocity) is called at most 60 times a second, and only while something is held, then once at
// rest; press(number, down) for the buttons of a gamepad. Returns a function that sends what is held at this
// moment: a wish must not arrive before the news that a stick was let go.
export function controls(walkElement, lookElement, send, press) {
  const keys = new Map(); // code -> "walk" or "look"
  const held = Array(PAD).fill(false);
  let running = false;
  let sent = [0, 0, 0, 0];
  let at = 0;
  const walk = new Stick(walkElement, run);
  const look = new Stick(lookElement, run);

  function read() {
    const total = [...walk.value, look.value[1], look.value[0]];
    const pad = [...(navigator.getGamepads?.() ?? [])].find((p) => p?.connected);
    const byKey = { walk: [0, 0], look: [0, 0] };
    for (const [code, stick] of keys) {
      const [up, right] = WALK_KEYS[code] ?? ARROWS[code];
      byKey[stick][0] += up;
      byKey[stick][1] += right;
    }
    for (const [name, stick] of [["walk", walk], ["look", look]]) {
      if (stick.pointer === null) stick.show(clamp(byKey[name][1]), clamp(-byKey[name][0]));
    }
    total[0] += byKey.walk[0];
    total[1] += byKey.walk[1];
    total[2] += byKey.look[1];
    total[3] += byKey.look[0];
    if (pad) {
      const axis = (i) => {
        const v = pad.axes[i] ?? 0;
        return Math.abs(v) < DEAD ? 0 : (v - Math.sign(v) * DEAD) / (1 - DEAD);
      };
      total[0] -= axis(1);
      total[1] += axis(0);
      total[2] += axis(2);
      total[3] -= axis(3);
    }
    return [total.map((v) => Math.round(clamp(v) * 1000) / 1000), pad];
  }

  function pressed(pad) {
    held.forEach((was, i) => {
      held[i] = pad.buttons[i]?.pressed ?? false;
      if (held[i] !== was) press(i, held[i]);
    });
  }

  function tell(velocity) {
    send(velocity);
    sent = velocity;
  }

  function tick(now) {
    const [velocity, pad] = read();
    const moving = velocity.some(Boolean);
    if ((moving || sent.some(Boolean)) && now - at >= INTERVAL - 1) {
      tell(velocity);
      at = now;
    }
    if (pad) pressed(pad);
    running = moving || Boolean(pad) || sent.some(Boolean);
    if (running) requestAnimationFrame(tick);
  }

  function run() {
    if (running) return;
    running = true;
    requestAnimationFrame(tick);
  }

  function letGo() {
    keys.clear();
    walk.rest();
    look.rest();
    run();
  }

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const code = event.code;
    if (!(code in WALK_KEYS) && !(code in ARROWS)) return;
    event.preventDefault();
    if (event.repeat) return;
    const byArrows = document.activeElement === walkElement ? "walk" : "look";
    keys.set(code, code in WALK_KEYS ? "walk" : byArrows);
    run();
  });
  addEventListener("keyup", (event) => {
    if (keys.delete(event.code)) run();
  });
  addEventListener("blur", letGo);
  document.addEventListener("visibilitychange", () => document.hidden && letGo());
  addEventListener("gamepadconnected", run);

  return () => {
    const [velocity] = read();
    if (velocity.some((v, i) => v !== sent[i])) tell(velocity);
  };
}
