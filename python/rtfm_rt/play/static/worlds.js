// SPDX-License-Identifier: Apache-2.0
// Saving, loading and branching: the buttons, the list of saved worlds, the row of branches.

const $ = (id) => document.getElementById(id);

const frames = (count) => `${count} ${count === 1 ? "frame" : "frames"}`;

function size(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

function when(seconds) {
  const then = new Date(seconds * 1000);
  const today = then.toDateString() === new Date().toDateString();
  return then.toLocaleString([], today
    ? { hour: "2-digit", minute: "2-digit" }
    : { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
}

function link(name, text, token) {
  const made = document.createElement("a");
  made.href = `worlds/${encodeURIComponent(name)}?${new URLSearchParams({ token })}`;
  made.download = `${name}.world`;
  made.textContent = text;
  made.ariaLabel = `Download ${name}`;
  return made;
}

// say(message) to the server, notify(text, more) on the screen, greeting() is the server's hello,
// entered() is called when a world was loaded.
export function worlds(token, say, notify, greeting, entered) {
  let tree = { here: "A", branches: [["A", null]] };

  const actions = {
    save: () => say({ save: true }),
    load: () => ($("menu").hidden ? open() : close()),
    branch: () => say({ branch: true }),
    next: () => {
      const names = tree.branches.map(([name]) => name);
      say({ switch: names[(names.indexOf(tree.here) + 1) % names.length] });
    },
    drop: () => tree.branches.length > 1 && say({ drop: tree.here }),
  };

  // the menu on the screen

  async function open() {
    let list = [];
    try {
      const answer = await fetch(`worlds?${new URLSearchParams({ token })}`);
      const result = await answer.json();
      if (!answer.ok) return notify(result.error);
      list = result.worlds;
    } catch {
      return notify("The list did not arrive. Is the server still there?");
    }
    $("saved").replaceChildren(...list.map(row));
    $("none-saved").hidden = list.length > 0;
    $("menu").hidden = false;
    ($("saved").querySelector("button") ?? $("world-file")).focus();
  }

  function close() {
    $("menu").hidden = true;
    $("load").focus();
  }

  function row(world) {
    const item = document.createElement("li");
    const pick = document.createElement("button");
    const about = document.createElement("small");
    about.textContent = `${when(world.saved)} · ${size(world.bytes)}`;
    pick.type = "button";
    pick.dataset.world = world.name;
    pick.append(world.name, about);
    pick.addEventListener("click", () => {
      close();
      say({ load: world.name });
    });
    item.append(pick, link(world.name, "↓", token));
    return item;
  }

  async function upload(file) {
    const { hello, world_bytes: most } = greeting();
    close();
    if (file.size > most) {
      return notify(`That file is larger than ${most >> 20} MB. Choose a smaller one.`);
    }
    try {
      const query = new URLSearchParams({ token, visitor: hello });
      const answer = await fetch(`worlds?${query}`, { method: "POST", body: file });
      const result = await answer.json();
      if (!answer.ok) return notify(result.error);
      heard({ loaded: "Your world", frames: result.frames });
    } catch {
      notify("The world did not arrive. Is the server still there?");
    }
  }

  // the branches

  function draw() {
    const children = (parent) => tree.branches.filter(([, from]) => from === parent)
      .flatMap(([name]) => [[name, parent], ...children(name)]);
    $("tree").replaceChildren(...children(null).map(([name, from], i, all) => {
      const chip = document.createElement("button");
      chip.type = "button";
      chip.className = i > 0 && from === all[i - 1][0] ? "chip joined" : "chip";
      chip.textContent = name;
      chip.dataset.branch = name;
      chip.ariaPressed = name === tree.here;
      chip.title = from ? `Branch ${name}, taken from ${from}` : `Branch ${name}`;
      chip.addEventListener("click", () => say({ switch: name }));
      return chip;
    }));
    const single = tree.branches.length === 1;
    $("tree").hidden = $("drop").hidden = single;
    $("drop").ariaLabel = `Drop branch ${tree.here}`;
    $("branch").disabled = tree.branches.length >= greeting().branches;
  }

  // Whether the message was one of these.
  function heard(message) {
    if (message.branches && message.here) {
      const [was, before] = [tree.here, tree.branches.length];
      tree = message;
      draw();
      if (tree.branches.length > before && before > 0 && was !== tree.here) {
        notify(`Branch ${tree.here}: ${was} waits where you left it`);
      }
    } else if (message.saved) {
      notify(`Saved as ${message.saved}: ${frames(message.frames)}. `,
        link(message.saved, "Download", token));
    } else if (message.loaded) {
      notify(`${message.loaded} is back: ${frames(message.frames)}`);
      entered();
    } else if (message.notice) {
      notify(message.notice);
    } else {
      return false;
    }
    return true;
  }

  for (const name of ["save", "load", "branch", "drop"]) {
    $(name).addEventListener("click", actions[name]);
  }
  $("close").addEventListener("click", close);
  $("world-file").addEventListener("change", ({ target }) => {
    if (target.files.length) upload(target.files[0]);
    target.value = "";
  });
  $("menu").addEventListener("keydown", (event) => {
    event.stopPropagation(); // these keys neither walk nor look
    if (event.code === "Escape") close();
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.code];
    if (!step) return;
    event.preventDefault();
    const stops = [...$("menu").querySelectorAll("li button, input, #close")];
    const at = stops.indexOf(document.activeElement.closest("li")?.querySelector("button")
      ?? document.activeElement);
    stops[(at + step + stops.length) % stops.length].focus();
  });
  return { actions, heard };
}
