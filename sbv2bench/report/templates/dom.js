"use strict";
// Elements, made of text and never of markup.

const narrow = matchMedia("(max-width: 720px)");

const SVG = "http://www.w3.org/2000/svg";

function made(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (["checked", "disabled", "hidden", "value", "selected"].includes(name)) element[name] = value;
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}
function make(tag, attributes = {}, ...children) { return made(document.createElement(tag), attributes, children); }
function draw(tag, attributes = {}, ...children) { return made(document.createElementNS(SVG, tag), attributes, children); }

function choice(name, label, options, change) {
  const items = options.map(([value, text]) => make("option", { value }, text));
  return make("label", {}, label, " ", make("select", { name, onchange: (event) => change(event.target.value) }, items));
}
function tick(name, label, change, value = "1") {
  return make("label", { class: "tick" }, make("input", { type: "checkbox", name, value, onchange: (event) => change(event.target.checked) }), " ", label);
}
function press(label, act, attributes = {}) { return make("button", { type: "button", onclick: act, ...attributes }, label); }

// A file of the page's own making; nothing is sent anywhere.
function save(name, type, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // a page from disk may have no clipboard of that kind
    const area = make("textarea", { class: "unseen" }, text);
    button.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.focus();
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1200);
}

// Numbers in (0, 1) that are the same on every visit (mulberry32).
function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return (((mixed ^ (mixed >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
}
