"use strict";
// What a page's script begins with. All text from data goes through textContent, never innerHTML.

const byId = (id) => document.getElementById(id);
const nonce = document.currentScript.nonce;

async function inflate(id) {
  const bytes = Uint8Array.from(atob(byId(id).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function say(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text = size === 0 ? "0" : Number.isInteger(value) ? value.toLocaleString("en")
    : size < 0.001 ? value.toExponential(1)
    : value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
  return text.replace(/^-/, "−");
}

// A reward, margin or change of log-probability: what is rounding alone is 0.
const ZERO = 5e-5;
const settled = (value) => (value !== null && Math.abs(value) < ZERO ? 0 : value);
const signed = (value) => (settled(value) > 0 ? `+${say(value)}` : say(settled(value)));

const counted = (n, thing) => `${n.toLocaleString("en")} ${thing}${n === 1 ? "" : "s"}`;

// What a person asked last: the last human turn of a transcript or of a chat template's text, else
// the last line that says something. In one line; role names and template marks stay out.
const MARK = /<\|[^<>|]*\|>|<\/?(?:s|bos|eos|start_of_turn|end_of_turn)>|<<\/?SYS>>|\[\/?(?:INST|SYSTEM_PROMPT)\]/g;
const HUMAN = "human|user|question|q|instruction|input|prompter";
const MODEL = "assistant|model|ai|bot|gpt|chatgpt|response|answer|a";
const OTHER = "system|developer|tool|observation|context";

function lastTurn(text) {
  const marked = text.search(MARK) >= 0;
  const human = text.lastIndexOf("[INST]"); // a mark that itself says whose turn begins
  const lines = text.slice(Math.max(0, human)).replace(MARK, "\n").split("\n").map((l) => l.trim()).filter(Boolean);
  // "Human: text", "### Instruction:", and, in a template, a role in a line of its own.
  const cue = new RegExp(`^(?:[#*]+\\s*)?(?:(${HUMAN})|(${MODEL})|(?:${OTHER}))\\**\\s*(?::\\s*\\**|${marked ? "$" : "(?!)"})`, "i");
  const turns = [{ who: "", said: [] }];
  for (const line of lines) {
    const found = cue.exec(line);
    if (found) turns.push({ who: found[1] ? "human" : found[2] ? "model" : "other", said: [] });
    const rest = found ? line.slice(found[0].length).trim() : line;
    if (rest) turns.at(-1).said.push(rest);
  }
  const spoken = turns.filter((t) => t.said.length);
  const asked = spoken.findLast((t) => t.who === "human");
  if (asked) return asked.said.join(" ");
  return spoken.length ? spoken.at(-1).said.at(-1) : "";
}

// What a long prompt asks stands at its end: that part of it is shown first.
function showEnd(prompt) { prompt.scrollTop = prompt.scrollHeight; }

// An SVG element; what it shows is said elsewhere in words.
function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
