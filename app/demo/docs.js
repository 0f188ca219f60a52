"use strict";

// The routes of /openapi.json as headings and tables. No scripts from elsewhere, so it works offline.

const main = document.getElementById("routes");

function make(tag, text, ...children) {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  node.append(...children);
  return node;
}

function table(rows) {
  return make("table", "", make("tbody", "", ...rows.map(([name, text]) =>
    make("tr", "", make("th", "", make("code", name)), make("td", text)))));
}

function range(schema) {
  const part = (schema.anyOf || [schema]).find((one) => one.type !== "null") || {};
  const low = part.minimum ?? (part.exclusiveMinimum === undefined ? part.minLength : `above ${part.exclusiveMinimum}`);
  const high = part.maximum ?? (part.exclusiveMaximum === undefined ? part.maxLength : `below ${part.exclusiveMaximum}`);
  const unit = part.type === "string" ? " characters" : "";
  const limits = high === undefined ? "" : `, ${low} to ${high}${unit}`;
  const standard = schema.default === undefined || schema.default === null ? "" : `, ${schema.default} where left out`;
  return `${part.type || "value"}${limits}${standard}`;
}

function section(path, method, route) {
  const parts = [make("h2", "", make("code", `${method.toUpperCase()} ${path}`)), make("p", route.description || "")];
  const content = route.requestBody && route.requestBody.content;
  if (content) {
    const schema = Object.values(content)[0].schema;
    const required = new Set(schema.required || []);
    parts.push(make("h3", `Fields (${Object.keys(content).join(", ")})`));
    parts.push(table(Object.entries(schema.properties).map(([name, one]) =>
      [name, `${one.description || ""} ${range(one)}${required.has(name) ? ". Required." : "."}`])));
    const example = JSON.stringify((schema.examples || [{}])[0]);
    parts.push(make("h3", "Try it"));
    parts.push(make("pre", `curl -s ${location.origin}${path} -H 'Content-Type: application/json' -d '${example}'`));
  }
  parts.push(make("h3", "Answers"));
  parts.push(table(Object.entries(route.responses).map(([status, one]) => [status, one.description])));
  const headers = (route.responses["200"] || {}).headers;
  if (headers) {
    parts.push(make("h3", "Headers of the answer"));
    parts.push(table(Object.entries(headers).map(([name, one]) => [name, one.description])));
  }
  const node = make("section", "", ...parts);
  node.className = "card";
  return node;
}

fetch("/openapi.json").then((answer) => answer.json()).then((api) => {
  const sections = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, route]) => section(path, method, route)));
  main.replaceChildren(make("p", api.info.description), ...sections);
}).catch((error) => main.replaceChildren(make("p", `The description could not be loaded: ${error.message}`)));
