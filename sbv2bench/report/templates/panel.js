// A row's details: every number in full, what stands behind it, and how to make, cite and link it.

function showPanel() {
  const board = content.boards.find((each) => each.rows.some((row) => row.id === asked(each.id, "row")));
  const row = board?.rows.find((each) => each.id === asked(board.id, "row"));
  const panel = document.getElementById("panel");
  if (!row) { if (panel.open) panel.close(); return; }
  if (panel.open && panel.dataset.row === row.id) return;
  panel.dataset.row = row.id;
  const close = () => ask(board.id, { row: "" });
  panel.replaceChildren(
    make("div", { class: "bar" }, make("h2", { id: "panelh" }, row.title ?? row.name), press("Close", close)),
    make("p", { class: "settings" }, row.settings ? `${row.settings} ` : "", make("code", {}, row.name)),
    actions(board, row),
    numbersTable(board, row),
    row.command ? block("To measure it again", row.command) : null,
    block("BibTeX", bibtexOf(board, row)),
    make("dl", {}, (row.facts ?? []).map(([name, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, text)))),
    hashes(row),
  );
  panel.onclose = () => { if (asked(board.id, "row")) close(); };
  if (!panel.open) panel.showModal();
}
function actions(board, row) {
  const result = row.link ? make("a", { href: row.link.split("/").map(encodeURIComponent).join("/") }, "Result file") : null;
  const json = press("Copy JSON", (event) => copy(JSON.stringify(row, null, 1), event.currentTarget));
  const link = press("Copy link", (event) => copy(location.href, event.currentTarget));
  return make("p", { class: "actions" }, link, json, result);
}
function block(title, text) {
  return make("div", { class: "block" }, make("h3", {}, title), make("pre", { tabindex: "0" }, text), press("Copy", (event) => copy(text, event.currentTarget), { "aria-label": `Copy: ${title}` }));
}
const plain = (value) => String(Number(value.toPrecision(6)));
function numbersTable(board, row) {
  const heads = ["Metric", "Value", "95 % interval", "Repeats", "n", "How"];
  const lines = board.columns.filter((column) => row.numbers?.[column.key]).map((column) => {
    const number = row.numbers[column.key], further = number.trainings ? `; further trainings ${number.trainings.map(plain).join(", ")}` : "";
    const texts = [plain(number.value), number.interval ? `[${number.interval.map(plain).join(", ")}]` : "", (number.repeats ?? []).map(plain).join(", ") + further,
      number.counts ?? "", [number.method, number.extractor].filter(Boolean).join("; ")];
    return make("tr", {}, make("th", { scope: "row" }, column.label + (column.unit ? `, ${column.unit}` : "")), texts.map((text, place) => make("td", { class: place < 2 ? "number" : null, "data-label": heads[place + 1] }, text)));
  });
  return make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Every number" },
    make("table", { class: "numbers" }, make("thead", {}, make("tr", {}, heads.map((head) => make("th", { scope: "col" }, head)))), make("tbody", {}, lines)));
}
function hashes(row) {
  if (!row.weights) return null;
  return make("details", {}, make("summary", {}, `SHA-256 of ${row.weights.length} weights files`),
    make("ul", { class: "hashes" }, row.weights.map(([path, sha256]) => make("li", {}, `${path} `, make("code", {}, sha256)))));
}
