"use strict";
// Sorting, filtering, opening and pointing. All of it reads the table that is on the page; nothing is fetched or evaluated.

const root = document.documentElement;

// Light, dark, or as the system is.
const themes = [["", "as the system"], ["light", "light"], ["dark", "dark"]];
const themeButton = document.getElementById("theme");
function setTheme(name) {
  const [theme, words] = themes.find((pair) => pair[0] === name) || themes[0];
  root.dataset.theme = theme;
  themeButton.querySelector("span").textContent = words;
}
function remembered() {
  try { return localStorage.getItem("sbv2bench-theme") || ""; } catch { return ""; } // a page from disk may have no storage
}
setTheme(remembered());
themeButton.addEventListener("click", () => {
  const now = themes.findIndex((pair) => pair[0] === root.dataset.theme);
  const next = themes[(now + 1) % themes.length][0];
  setTheme(next);
  try { localStorage.setItem("sbv2bench-theme", next); } catch { /* remembered for this visit only */ }
});

// A row is a tbody: its numbers, and the provenance that opens below them.
function open(row, wanted) {
  row.querySelector(".more").setAttribute("aria-expanded", String(wanted));
  row.querySelector(".detail").hidden = !wanted;
}

for (const board of document.querySelectorAll(".board")) {
  const table = board.querySelector(".rows");
  const rows = [...table.tBodies];
  const heads = [...table.tHead.rows[0].cells];

  for (const row of rows) {
    row.querySelector(".more").addEventListener("click", () => open(row, row.querySelector(".detail").hidden));
  }

  // Best first, then the other way round; a row without a value is last either way.
  heads.forEach((head, place) => {
    const button = head.querySelector("button");
    button.addEventListener("click", () => {
      const best = button.dataset.best;
      const other = best === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === best ? other : best;
      for (const each of heads) each.setAttribute("aria-sort", each === head ? order : "none");
      const sign = order === "ascending" ? 1 : -1;
      const value = (row) => row.rows[0].cells[place].dataset.value;
      const compared = (a, b) => (place === 0 ? a.localeCompare(b, "en", { numeric: true }) : Number(a) - Number(b));
      const sorted = [...rows].sort((a, b) => {
        const [one, two] = [value(a), value(b)];
        if (one === "" || two === "") return (one === "") - (two === "");
        return sign * compared(one, two);
      });
      table.append(...sorted);
    });
  });

  const form = board.querySelector(".filters");
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  function filter() {
    const asked = new FormData(form);
    const words = String(asked.get("text")).toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const fits = ["steps", "kind"].every((name) => !asked.get(name) || row.dataset[name] === asked.get(name));
      row.hidden = !(fits && words.every((word) => texts.get(row).includes(word)));
      shown += row.hidden ? 0 : 1;
      for (const mark of marksOf(row.id)) mark.classList.toggle("gone", row.hidden);
    }
    form.querySelector("output").textContent = `${shown} of ${rows.length} rows`;
  }
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());

  for (const row of rows) {
    row.addEventListener("pointerenter", () => marksOf(row.id).forEach((mark) => mark.classList.add("lit")));
    row.addEventListener("pointerleave", () => marksOf(row.id).forEach((mark) => mark.classList.remove("lit")));
  }
}

function marksOf(id) {
  return [...document.querySelectorAll(".mark")].filter((mark) => mark.dataset.row === id);
}

// A point says what it is when it is pointed at or reached by the arrow keys; pressed, it shows its row.
const tip = document.getElementById("tip");
function say(mark) {
  tip.textContent = mark.getAttribute("aria-label").split(". ").join("\n");
  tip.hidden = false;
  const box = mark.getBoundingClientRect();
  const left = Math.min(box.right + 8, innerWidth - tip.offsetWidth - 8);
  const above = box.top - tip.offsetHeight - 8;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above > 8 ? above : box.bottom + 8}px`;
}
function hush() { tip.hidden = true; }
function show(mark) {
  const row = document.getElementById(mark.dataset.row);
  if (!row) return;
  open(row, true);
  row.scrollIntoView({ block: "nearest" });
  row.querySelector(".more").focus();
}

for (const plot of document.querySelectorAll(".plot")) {
  const marks = [...plot.querySelectorAll(".mark")];
  const across = [...marks].sort((a, b) => a.getBoundingClientRect().left - b.getBoundingClientRect().left);
  if (across.length) across[0].setAttribute("tabindex", "0");
  for (const mark of marks) {
    mark.addEventListener("pointerenter", () => say(mark));
    mark.addEventListener("pointerleave", hush);
    mark.addEventListener("focus", () => say(mark));
    mark.addEventListener("blur", hush);
    mark.addEventListener("click", () => show(mark));
  }
  plot.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    const here = across.indexOf(document.activeElement);
    if (here < 0) return;
    if (event.key === "Escape") hush();
    if (!step && event.key !== "Enter") return;
    event.preventDefault(); // or Enter would press the row's button too, which has the focus by then
    if (!step) return show(across[here]);
    const next = across[(here + step + across.length) % across.length];
    across[here].setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  });
}
addEventListener("scroll", hush, { passive: true });
