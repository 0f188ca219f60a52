// A square for one picture: empty, waiting, being painted from the top, stopped, or done.
//
// `on` is what happens when somebody acts on a finished picture; the page fills it in.

import { fileName } from "./words.js";

export const on = { open: null, paintOn: null, choose: null };
const urls = new WeakMap();

// The blob: address of a record's picture; one for each record, until `forget`.
export function url(record) {
  if (!urls.has(record)) urls.set(record, URL.createObjectURL(record.png));
  return urls.get(record);
}

export function forget(record) {
  URL.revokeObjectURL(urls.get(record));
  urls.delete(record);
}

export function icon(id) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${id}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

// <tag class="kind" ...properties>children</tag>
export function make(tag, kind, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  if (kind) node.className = kind;
  node.append(...children);
  return node;
}

export function labelled(node, label) {
  node.setAttribute("aria-label", label);
  node.title = label;
  return node;
}

export class Tile {
  // label: what a screen reader calls the picture.
  constructor(label) {
    this.label = label;
    this.record = null;
    this.picture = make("img", "", { alt: "", hidden: true, decoding: "sync" });
    this.frame = make("button", "frame", { type: "button", disabled: true }, this.picture, make("span", "front"));
    this.frame.addEventListener("click", () => on.open(this.record));
    this.element = make("li", "tile", {}, this.frame);
    this.drawn = 0; // when the last partial came, in ms
    this.given = 0; // the part of the picture, 0 to 1, that was there before
    this.state("empty");
  }

  static of(record, label) {
    const tile = new Tile(label);
    tile.picture.loading = "lazy";
    tile.picture.decoding = "async";
    tile.finish(record);
    tile.state("kept");
    return tile;
  }

  state(state, note = "") {
    this.element.dataset.state = state;
    this.frame.setAttribute("aria-label", note ? `${this.label}: ${note}` : this.label);
  }

  wait() {
    this.state("waiting", "not yet begun");
  }

  // The top of the picture at this address, `part` of it, stays.
  give(address, part) {
    this.given = part;
    this.show(address, part);
  }

  // rows of total are painted in the picture at this address. The reveal takes as long as these rows took to paint.
  partial(address, rows, total) {
    const now = performance.now();
    const pace = this.drawn ? Math.min(Math.max(now - this.drawn, 120), 3000) : 400;
    this.drawn = now;
    this.frame.style.setProperty("--pace", `${Math.round(pace)}ms`);
    this.show(address, Math.max(rows / total, this.given));
    this.state("painting", `${rows} of ${total} rows painted`);
  }

  show(address, part) {
    this.picture.src = address;
    this.picture.hidden = false;
    this.frame.style.setProperty("--done", `${100 * part}%`);
  }

  finish(record) {
    this.record = record;
    this.frame.style.setProperty("--pace", "400ms");
    this.show(url(record), 1);
    this.frame.disabled = false;
    this.state("done", "open");
    const save = make("a", "icon", { href: url(record), download: fileName(record) }, icon("download"));
    const further = make("button", "icon wide", { type: "button" }, icon("brush"), "Paint on");
    further.addEventListener("click", () => on.paintOn(record));
    this.element.append(make("div", "tools", {}, labelled(save, "Download"), labelled(further, "Paint on: keep the top, repaint the rest")));
  }

  stop() {
    if (this.record) return;
    this.state(this.drawn ? "stopped" : "empty", "stopped");
  }
}
