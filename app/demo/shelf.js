// What the model draws, before anybody has typed: sample pictures, and a list of its things that can be searched.

import { many } from "./words.js";

const $ = (id) => document.getElementById(id);
const PAUSE = 150; // ms after the last key until a search begins

let newest = 0; // number of the newest search
let choose = () => {};
let key = () => null;
let model = () => "";

async function ask(path, query = {}) {
  const asked = new URLSearchParams({ ...query, ...(model() ? { model: model() } : {}) });
  const answer = await fetch(asked.size ? `${path}?${asked}` : path, { headers: key() ? { Authorization: `Bearer ${key()}` } : {} });
  if (!answer.ok) throw new Error(`The server answered with status ${answer.status}.`);
  return answer;
}

function button(text) {
  const made = Object.assign(document.createElement("button"), { type: "button" });
  made.addEventListener("click", () => choose(text));
  return made;
}

function item(child) {
  const made = document.createElement("li");
  made.append(child);
  return made;
}

async function search() {
  const number = (newest += 1);
  const { total, things } = await (await ask("things", { limit: 40, q: $("search").value.trim() })).json();
  if (number !== newest) return 0;
  $("found").textContent = total > things.length ? `The first ${things.length} of ${total}` : total ? many(total, "thing") : "Nothing like that. Try another word.";
  $("things").replaceChildren(...things.map(({ name }) => {
    const made = button(name);
    made.textContent = name;
    return item(made);
  }));
  return total;
}

// The sample pictures under the headings of their kinds.
async function pictures() {
  const { columns, pictures: shown } = await (await ask("gallery")).json();
  if (!shown.length) {
    $("samples").replaceChildren();
    return;
  }
  const url = URL.createObjectURL(await (await ask("gallery.webp")).blob());
  const rows = Math.ceil(shown.length / columns);
  const kinds = new Map();
  shown.forEach(({ text, kind }, i) => {
    const made = button(text);
    const picture = Object.assign(document.createElement("span"), { className: "sample" });
    picture.style.backgroundImage = `url(${url})`;
    picture.style.backgroundSize = `${100 * columns}% ${100 * rows}%`;
    const [x, y] = [i % columns, Math.floor(i / columns)];
    picture.style.backgroundPosition = `${columns > 1 ? (100 * x) / (columns - 1) : 0}% ${rows > 1 ? (100 * y) / (rows - 1) : 0}%`;
    made.append(picture, Object.assign(document.createElement("span"), { textContent: text }));
    kinds.set(kind, [...(kinds.get(kind) || []), item(made)]);
  });
  $("samples").replaceChildren(...[...kinds].map(([kind, items]) => {
    const list = document.createElement("ul");
    list.append(...items);
    const group = Object.assign(document.createElement("section"), { className: items.length > 4 ? "wide" : "" });
    group.append(Object.assign(document.createElement("h3"), { textContent: kind }), list);
    return group;
  }));
}

// How many things the further styles know: ", 912 of them also in 3d".
async function styled() {
  const { data } = await (await ask("v1/models")).json();
  const { styles = [] } = data.find(({ id }) => id === model()) || data[0] || {};
  return styles.filter(({ things }) => things).map(({ name, things }) => `, ${things} of them also in ${name}`).join("");
}

// Shows what the chosen model draws, if the server tells.
export async function show() {
  try {
    const total = await search();
    $("shelf").hidden = !total;
    if (!total) return;
    $("shelf-line").textContent = `Simple pictures of ${total} things${await styled()}; in colours, on backgrounds, counted, in pairs. No people by name, brands or scenes.`;
    await pictures();
  } catch {
    $("shelf").hidden = true; // a key is missing, or the server is old
  }
}

// of: gives the API key, if there is one. at: gives the name of the chosen model, or "". fill: what is done with the text
// of a picture or thing that was chosen.
export function start(of, at, fill) {
  [key, model, choose] = [of, at, fill];
  let timer = 0;
  $("search").addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => search().catch(() => {}), PAUSE);
  });
  return show();
}
