// A form that sends a request of /docs to this server, and shows the answer. Fields that are left empty are not sent.

import { make } from "./tiles.js";

const SHOWN = 120; // characters of a long string in a shown answer
const KEY = "key"; // of the session's storage, shared with the page that paints

export const kindOf = (schema) => (schema.anyOf || [schema]).find((one) => one.type !== "null") || {};

function stored() {
  try {
    return sessionStorage.getItem(KEY) || "";
  } catch {
    return ""; // storage is refused
  }
}

// The input of a field. value: what it holds at first.
function input(name, schema, value) {
  const kind = kindOf(schema);
  const standard = schema.default ?? "";
  if (kind.enum || kind.type === "boolean") {
    const choices = (kind.enum || [true, false]).map((one) => new Option(String(one), String(one)));
    return make("select", "", { name }, new Option(standard === "" ? "" : `${standard} (default)`, ""), ...choices);
  }
  if (kind.format === "binary") return make("input", "", { name, type: "file", accept: "image/png,image/jpeg,image/webp" });
  const numeric = kind.type === "integer" || kind.type === "number";
  return make("input", "", { name, type: "text", inputMode: numeric ? "decimal" : "text", autocomplete: "off", placeholder: String(standard), value: String(value ?? "") });
}

function labelled(name, field, required) {
  return make("label", "", {}, make("span", "", {}, make("code", "", {}, name), required ? " (required)" : ""), field);
}

// The value that the API takes: numbers and booleans as such. What cannot be read stays text, so that the server says it.
function typed(text, schema) {
  const { type } = kindOf(schema);
  if (type === "boolean") return text === "true";
  const number = Number(text);
  return (type === "integer" || type === "number") && Number.isFinite(number) && Number.isSafeInteger(Math.trunc(number)) ? number : text;
}

// The body of a request with these fields: [name, text or File, schema].
function body(fields, kinds) {
  const withFile = fields.some(([, value]) => value instanceof File);
  if (kinds.includes("application/json") && !withFile) {
    return { text: JSON.stringify(Object.fromEntries(fields.map(([name, value, schema]) => [name, typed(value, schema)]))), kind: "application/json" };
  }
  const form = new FormData();
  for (const [name, value] of fields) form.append(name, value);
  return { text: form, kind: null };
}

function abridged(_, value) {
  return typeof value === "string" && value.length > SHOWN ? `${value.slice(0, SHOWN)}... (${value.length} characters)` : value;
}

// The elements that show an answer: its status, its pictures, its body.
async function shown(answer, seconds) {
  const parts = [make("p", answer.ok ? "" : "wrong", {}, `${answer.status} in ${seconds.toFixed(1)} s`)];
  const kind = answer.headers.get("Content-Type") || "";
  if (kind.startsWith("image/")) return [...parts, make("img", "", { alt: "The answer", src: URL.createObjectURL(await answer.blob()) })];
  const text = await answer.text();
  if (!kind.startsWith("application/json")) {
    return [...parts, make("pre", "", { tabIndex: 0 }, text.split("\n").map((line) => abridged("", line)).join("\n"))];
  }
  const value = JSON.parse(text);
  const format = value.output_format || "png";
  const pictures = Array.isArray(value) ? value : (value.data || []).map((one) => one.b64_json).filter(Boolean);
  const images = pictures.map((one, i) => make("img", "", { alt: `Picture ${i + 1} of the answer`, src: `data:image/${format};base64,${one}` }));
  return [...parts, make("div", "pictures", {}, ...images), make("pre", "", { tabIndex: 0 }, JSON.stringify(value, abridged, 2))];
}

// The form of a route. fields: [name, schema, required, first value]. kinds: the types of body, none for GET.
export function form(path, method, { fields, kinds, closed }) {
  const inputs = fields.map(([name, schema, required, value]) => [name, schema, required, input(name, schema, value)]);
  const row = ([name, , required, field]) => labelled(name, field, required);
  const key = make("input", "", { type: "password", autocomplete: "off", value: stored() });
  const more = inputs.filter(([, , required]) => !required);
  const answer = make("div", "answer", { role: "status" });
  const send = make("button", "main", { type: "submit" }, "Send");
  const made = make("form", "try", { noValidate: true },
    ...(closed ? [labelled("API key", key, true)] : []),
    ...inputs.filter(([, , required]) => required).map(row),
    ...(more.length ? [make("details", "", {}, make("summary", "", {}, `${more.length} optional fields`), make("div", "fields", {}, ...more.map(row)))] : []),
    send, answer);
  made.addEventListener("submit", async (event) => {
    event.preventDefault();
    const blank = inputs.find(([name, , , field]) => path.includes(`{${name}`) && !field.value);
    if (blank) { // without it the address would be another route's
      answer.replaceChildren(make("p", "wrong", {}, `${blank[0]} is missing; it is a part of the address.`));
      blank[3].focus();
      return;
    }
    send.disabled = true;
    answer.replaceChildren("Waiting for the answer.");
    const given = inputs.map(([name, schema, , field]) => [name, field.type === "file" ? field.files[0] : field.value, schema]).filter(([, value]) => value);
    const at = new URL(path.slice(1).replace(/\{(\w+)[^}]*\}/g, (_, name) => encodeURIComponent((given.find(([one]) => one === name) || [name, ""])[1])), document.baseURI);
    const options = { method: method.toUpperCase(), headers: closed ? { Authorization: `Bearer ${key.value}` } : {} };
    if (kinds.length) {
      const { text, kind } = body(given, kinds);
      options.body = text;
      if (kind) options.headers["Content-Type"] = kind;
    } else {
      given.filter(([name]) => !path.includes(`{${name}`)).forEach(([name, value]) => at.searchParams.set(name, value));
    }
    const began = performance.now();
    try {
      answer.replaceChildren(...(await shown(await fetch(at, options), (performance.now() - began) / 1000)));
    } catch (error) {
      answer.replaceChildren(make("p", "wrong", {}, `The server cannot be reached: ${error.message}`));
    } finally {
      send.disabled = false;
    }
  });
  return made;
}
