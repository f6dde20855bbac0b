// What is shown is in the address: "#mini-5k?sort=fid&steps=1;gallery?order=worst". A part of the page has a name, and reads and
// writes its own words only; whoever opens the address sees the same.

const content = JSON.parse(document.getElementById("content").textContent);
const parts = new Map(); // name of a part -> URLSearchParams
const shows = new Map(); // name of a part -> what brings the page in line with it

function readAddress() {
  parts.clear();
  for (const text of location.hash.slice(1).split(";")) {
    const cut = text.indexOf("?");
    if (cut > 0) parts.set(text.slice(0, cut), new URLSearchParams(text.slice(cut + 1)));
  }
}
function asked(part, name, otherwise = "") { return parts.get(part)?.get(name) ?? otherwise; }
function address() {
  const texts = [...parts].filter(([, words]) => words.size || [...words].length).map(([part, words]) => `${part}?${words}`);
  return texts.length ? `#${texts.join(";")}` : "";
}
// changes: name -> value; what is empty or null leaves the address.
function ask(part, changes) {
  if (!parts.has(part)) parts.set(part, new URLSearchParams());
  const words = parts.get(part);
  for (const [name, value] of Object.entries(changes)) {
    if (value === "" || value === null || value === false) words.delete(name);
    else words.set(name, value);
  }
  history.replaceState(null, "", address() || location.pathname + location.search);
  shows.get(part)?.();
}
function clear(part, kept = []) {
  const names = [...(parts.get(part) ?? new URLSearchParams()).keys()].filter((name) => !kept.includes(name));
  ask(part, Object.fromEntries(names.map((name) => [name, ""])));
}
function part(name, show) { shows.set(name, show); }
function showAll() {
  readAddress();
  for (const show of shows.values()) show();
}
