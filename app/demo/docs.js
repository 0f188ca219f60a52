// The routes of /openapi.json as headings and tables. No scripts from elsewhere, so it works offline.

import { make } from "./tiles.js";

const routes = document.getElementById("routes");

function table(rows) {
  return make("table", "", {}, make("tbody", "", {}, ...rows.map(([name, text]) =>
    make("tr", "", {}, make("th", "", { scope: "row" }, make("code", "", {}, name)), make("td", "", {}, ...text)))));
}

// Text with its `code` as code.
function prose(text = "") {
  return text.split("`").map((part, i) => (i % 2 ? make("code", "", {}, part) : part));
}

function range(schema) {
  const part = (schema.anyOf || [schema]).find((one) => one.type !== "null") || {};
  if (part.enum) return part.enum.join(", ");
  const number = (value) => (value > 1e15 ? `2^${Math.log2(value)}` : value);
  const low = part.minimum ?? (part.exclusiveMinimum === undefined ? part.minLength : `above ${part.exclusiveMinimum}`);
  const high = part.maximum ?? (part.exclusiveMaximum === undefined ? part.maxLength : `below ${number(part.exclusiveMaximum)}`);
  const kind = part.format === "binary" ? "file" : part.type || "value";
  const unit = kind === "string" ? " characters" : "";
  const limits = high === undefined ? "" : `, ${low === undefined ? "up" : low} to ${high}${unit}`;
  const standard = schema.default === undefined || schema.default === null ? "" : `, ${schema.default} where left out`;
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

function section(api, path, method, route) {
  const resolve = (schema) => (schema && schema.$ref ? schema.$ref.split("/").slice(1).reduce((at, key) => at[key], api) : schema);
  const heading = (text) => make("h3", "", {}, text);
  const parts = [make("h2", "", {}, make("code", "", {}, `${method.toUpperCase()} ${path}`)), make("p", "", {}, ...prose(route.description))];
  const content = Object.entries((route.requestBody || {}).content || {});
  if (content.length) {
    const schema = resolve(content[0][1].schema);
    const required = new Set(schema.required || []);
    const rows = Object.entries(schema.properties || {}).map(([name, field]) => {
      const one = resolve(field);
      const limits = required.has(name) ? `required: ${range(one)}` : range(one);
      return [name, [make("div", "", {}, ...prose(one.description)), make("div", "soft", {}, limits)]];
    });
    parts.push(heading(`Fields (${content.map(([kind]) => kind).join(", ")})`), table(rows));
    parts.push(heading("Try it"), make("pre", "", { tabIndex: 0 }, curl(path, content[0][0], schema, (route.security || []).length)));
  }
  const asked = (route.parameters || []).filter((one) => one.in === "header");
  if (asked.length) parts.push(heading("Headers"), table(asked.map((one) => [one.name, prose(one.description)])));
  parts.push(heading("Answers"), table(Object.entries(route.responses).map(([status, one]) => [status, prose(resolve(one).description)])));
  const headers = Object.entries((route.responses["200"] || {}).headers || {});
  if (headers.length) parts.push(heading("Headers of the answer"), table(headers.map(([name, one]) => [name, prose(one.description)])));
  return make("section", "card", {}, ...parts);
}

fetch("openapi.json").then((answer) => answer.json()).then((api) => {
  const sections = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, route]) => section(api, path, method, route)));
  routes.replaceChildren(make("p", "", {}, api.info.description), ...sections);
}).catch((error) => routes.replaceChildren(make("p", "wrong", {}, `The description could not be loaded: ${error.message}`)));
