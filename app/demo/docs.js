// The routes of /openapi.json as headings and tables. No scripts from elsewhere, so it works offline.

import { make } from "./tiles.js";
import { form, kindOf } from "./tryit.js";

const routes = document.getElementById("routes");

function table(rows) {
  return make("table", "", {}, make("tbody", "", {}, ...rows.map(([name, text]) =>
    make("tr", "", {}, make("th", "", { scope: "row" }, make("code", "", {}, name)), make("td", "", {}, ...text)))));
}

// Text with its `code` as code.
function prose(text = "") {
  return text.split("`").map((part, i) => (i % 2 ? make("code", "", {}, part) : part));
}

// A row of the table of fields.
function row([name, schema, required]) {
  const limits = required ? `required: ${range(schema)}` : range(schema);
  return [name, [make("div", "", {}, ...prose(schema.description)), make("div", "soft", {}, limits)]];
}

function range(schema) {
  const part = kindOf(schema);
  const standard = schema.default === undefined || schema.default === null ? "" : `, default ${JSON.stringify(schema.default).replace(/^"|"$/g, "")}`;
  if (part.enum) return `${part.enum.join(", ")}${standard}`;
  const number = (value) => (value > 1e15 ? `2^${Math.log2(value)}` : value);
  const low = part.minimum ?? (part.exclusiveMinimum === undefined ? part.minLength : `above ${part.exclusiveMinimum}`);
  const high = part.maximum ?? (part.exclusiveMaximum === undefined ? part.maxLength : `below ${number(part.exclusiveMaximum)}`);
  const kind = part.format === "binary" ? "file" : part.type || "value";
  const unit = kind === "string" ? " characters" : "";
  const limits = high === undefined ? "" : `, ${low === undefined ? "up" : low} to ${high}${unit}`;
  return `${kind}${limits}${standard}`;
}

// The command line that sends a body like the schema's example, or of what it requires.
function curl(path, kind, schema, closed) {
  const isFile = (name) => (schema.properties[name] || {}).format === "binary";
  const needed = (schema.required || []).map((name) => [name, isFile(name) ? "picture.png" : "a red apple"]);
  const [example = Object.fromEntries(needed)] = schema.examples || [];
  const start = `curl -s ${new URL(path.slice(1), document.baseURI)}${closed ? " -H 'Authorization: Bearer KEY'" : ""}`;
  if (kind === "application/json") return `${start} -H 'Content-Type: ${kind}' -d '${JSON.stringify(example)}'`;
  return [start, ...Object.entries(example).map(([name, value]) => `-F ${name}='${isFile(name) ? "@" : ""}${value}'`)].join(" ");
}

// An example of a schema's values: its own, or one made of its parts.
function example(schema, resolve) {
  const one = resolve(kindOf(resolve(schema)));
  if (one.examples) return one.examples[0];
  if (one.const !== undefined) return one.const;
  if (one.enum) return one.enum[0];
  if (one.type === "array") return [example(one.items, resolve)];
  if (one.type === "object") return Object.fromEntries(Object.entries(one.properties || {}).map(([name, field]) => [name, example(field, resolve)]));
  return { integer: 1, number: 0.5, boolean: true }[one.type] ?? "...";
}

// What a route answers when it can: a body of each type.
function answers(route, resolve) {
  const content = Object.entries((route.responses["200"] || {}).content || {}).filter(([kind]) => !kind.startsWith("image/"));
  return content.flatMap(([kind, { schema = {}, example: given }]) => {
    const text = kind === "application/json" ? JSON.stringify(given ?? example(schema, resolve), null, 2) : given ?? "";
    return text ? [make("p", "soft", {}, kind), make("pre", "", { tabIndex: 0 }, text)] : [];
  });
}

function section(api, path, method, route) {
  const resolve = (schema) => (schema && schema.$ref ? schema.$ref.split("/").slice(1).reduce((at, key) => at[key], api) : schema);
  const heading = (text) => make("h3", "", {}, text);
  const parts = [make("h2", "", {}, make("code", "", {}, `${method.toUpperCase()} ${path}`)), make("p", "", {}, ...prose(route.description))];
  const content = Object.entries((route.requestBody || {}).content || {});
  const closed = (route.security || []).length > 0;
  let fields = (route.parameters || []).filter((one) => one.in !== "header").map((one) => [one.name, { ...one.schema, description: one.description }, one.required]);
  if (!content.length && fields.length) parts.push(heading("Parameters"), table(fields.map(row)));
  if (content.length) {
    const [, { schema: full }] = content.find(([kind]) => kind.startsWith("multipart")) || content[0]; // it may have files
    const { properties = {}, required = [], examples = [] } = resolve(full);
    const first = examples[0] || { prompt: "a red apple" };
    fields = Object.entries(properties).map(([name, field]) => [name, resolve(field), required.includes(name), required.includes(name) ? first[name] : ""])
      .filter(([, field]) => kindOf(field).type).sort((a, b) => b[2] - a[2]);
    parts.push(heading(`Fields (${content.map(([kind]) => kind).join(", ")})`), table(fields.map(row)));
    parts.push(heading("From a shell"), make("pre", "", { tabIndex: 0 }, curl(path, content[0][0], resolve(content[0][1].schema), closed)));
  }
  parts.push(heading("Try it"), form(path, method, { fields, kinds: content.map(([kind]) => kind), closed }));
  const asked = (route.parameters || []).filter((one) => one.in === "header");
  if (asked.length) parts.push(heading("Headers"), table(asked.map((one) => [one.name, prose(one.description)])));
  const made = answers(route, resolve);
  if (made.length) parts.push(heading("An answer"), ...made);
  parts.push(heading("Statuses"), table(Object.entries(route.responses).map(([status, one]) => [status, prose(resolve(one).description)])));
  const headers = Object.entries((route.responses["200"] || {}).headers || {});
  if (headers.length) parts.push(heading("Headers of the answer"), table(headers.map(([name, one]) => [name, prose(one.description)])));
  return make("section", "card", {}, ...parts);
}

fetch("openapi.json").then((answer) => answer.json()).then((api) => {
  const sections = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, route]) => section(api, path, method, route)));
  routes.replaceChildren(make("p", "", {}, api.info.description), ...sections);
}).catch((error) => routes.replaceChildren(make("p", "wrong", {}, `The description could not be loaded: ${error.message}`)));
