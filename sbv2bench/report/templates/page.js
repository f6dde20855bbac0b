// The start: theme, links within the page, and all that the address says.

const root = document.documentElement;
const themes = [["", "as the system"], ["light", "light"], ["dark", "dark"]];
const themeButton = document.getElementById("theme");
function setTheme(name) {
  const [theme, words] = themes.find((pair) => pair[0] === name) || themes[0];
  root.dataset.theme = theme;
  themeButton.querySelector("span").textContent = words;
}
// What this browser keeps between visits; a page from disk may have no such place.
function kept(name) { try { return localStorage.getItem(`sbv2bench-${name}`) || ""; } catch { return ""; } }
function keep(name, text) { try { localStorage.setItem(`sbv2bench-${name}`, text); } catch { /* for this visit only */ } }
setTheme(kept("theme"));
themeButton.addEventListener("click", () => {
  const next = themes[(themes.findIndex((pair) => pair[0] === root.dataset.theme) + 1) % themes.length][0];
  setTheme(next);
  keep("theme", next);
});

for (const board of content.boards ?? []) setUpBoard(board);
for (const [place, sweep] of (content.sweeps ?? []).entries()) {
  document.getElementById(`sweep${place}`).append(...sweep.curves.map((curve) => make("div", {}, curved(sweep, curve, SIZE.panel))));
}
if (content.gallery) setUpGallery(content.gallery);

// A link to a section goes there and leaves the address, which says what is shown, as it is.
for (const link of document.querySelectorAll("nav a")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById(link.hash.slice(1)).scrollIntoView();
  });
}
addEventListener("hashchange", showAll);
addEventListener("scroll", hush, { passive: true });
showAll();
const first = [...parts.keys()].map((name) => document.getElementById(name)).find(Boolean);
if (first && first !== document.querySelector("section")) first.scrollIntoView();
