// SPDX-License-Identifier: Apache-2.0
// What a model's actions are called, to be held down: on the page, by keys, by a gamepad.

const AGAIN = 100; // ms after which what is still held is told again: the page is awake

const name = (code) => ({ Space: "␣", ShiftLeft: "⇧" })[code] ?? code.replace(/^Key/, "");

// send(numbers) when what is held changes, and while something is.
export function buttons(box, send) {
  const held = new Map(); // what holds it -> its number
  let byKey = new Map(); // code -> number
  let elements = [];
  let timer = 0;

  function tell() {
    const numbers = [...new Set(held.values())];
    elements.forEach((element, i) => element.classList.toggle("down", numbers.includes(i)));
    send(numbers);
    clearTimeout(timer);
    if (numbers.length) timer = setTimeout(tell, AGAIN);
  }

  function press(by, number) {
    if (number >= elements.length) return;
    held.set(by, number);
    tell();
  }

  function release(by) {
    if (held.delete(by)) tell();
  }

  function letGo() {
    if (!held.size) return;
    held.clear();
    tell();
  }

  function make([label, code], number) {
    const element = document.createElement("button");
    const by = `button ${number}`;
    element.type = "button";
    element.className = "act";
    element.textContent = label;
    if (code) {
      const key = document.createElement("kbd");
      key.textContent = name(code);
      element.append(key);
    }
    element.addEventListener("pointerdown", (event) => {
      element.setPointerCapture(event.pointerId);
      press(by, number);
    });
    for (const end of ["pointerup", "pointercancel", "blur"]) {
      element.addEventListener(end, () => release(by));
    }
    element.addEventListener("keydown", (event) => {
      if (event.code !== "Enter" && event.code !== "Space") return;
      event.preventDefault();
      event.stopPropagation(); // the key of another button, perhaps
      if (!event.repeat) press(by, number);
    });
    element.addEventListener("keyup", () => release(by));
    element.addEventListener("mousedown", (event) => event.preventDefault()); // no focus
    element.addEventListener("contextmenu", (event) => event.preventDefault());
    return element;
  }

  // list: [label, code or null] of each
  function fill(list) {
    letGo();
    elements = list.map(make);
    byKey = new Map(list.flatMap(([, code], i) => (code ? [[code, i]] : [])));
    box.replaceChildren(...elements);
    box.hidden = false;
  }

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !byKey.has(event.code)) return;
    if (event.code === "Space" && document.activeElement?.matches("button, input, a")) return;
    event.preventDefault();
    if (!event.repeat) press(event.code, byKey.get(event.code));
  });
  addEventListener("keyup", (event) => release(event.code));
  addEventListener("blur", letGo);
  document.addEventListener("visibilitychange", () => document.hidden && letGo());
  return { fill, press, release };
}
