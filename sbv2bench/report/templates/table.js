// A board's toolbar, table and plot, brought in line with the address whenever it changes.

// Columns beside the metrics, of those that a board has.
const fieldsOf = (board) => content.fields.filter((field) => board.rows.some((row) => row[field.key]));

function setUpBoard(board) {
  const section = document.getElementById(board.id), table = section.querySelector(".rows");
  const lines = new Map(board.rows.map((row, place) => [row, document.getElementById(`${board.id}-r${place}`)]));
  const columns = [...fieldsOf(board), ...board.columns];
  const axes = axesOf(board), usual = axes.length > 1 ? usualAxes(axes, board.rows) : null;
  const want = (changes) => ask(board.id, changes);
  const usualSort = board.order ?? "";
  const output = make("output", { "aria-live": "polite" });
  const tools = toolbar(board, columns, usual, usualSort, want, output, () => shown);
  section.querySelector(".tools").append(tools.element);
  const plot = usual ? plotArea(board, axes, usual, want) : null;
  if (plot) section.querySelector(".frontier").append(plot.element);
  let shown = null; // what is to be seen now: rows, columns, ranks

  for (const head of table.querySelectorAll("thead button")) {
    const key = head.parentElement.dataset.key;
    head.addEventListener("click", () => {
      want({ sort: asked(board.id, "sort", usualSort) === key ? `-${key}` : key === usualSort ? "" : key });
    });
  }
  for (const button of section.querySelectorAll(".open")) button.addEventListener("click", () => want({ row: button.dataset.row }));

  function axis(name, place) { return axes.find((each) => each.key === asked(board.id, name)) ?? usual[place]; }
  function show() {
    const sort = asked(board.id, "sort", usualSort), key = sort.replace(/^-/, "");
    let rows = board.rows.filter((row) => found(row, asked(board.id, "q")) && FILTERS.every(([name, , of]) => !asked(board.id, name) || of(row) === asked(board.id, name)
      || (name === "steps" && asked(board.id, name) === "several" && row.nfe > 1)));
    if (usual && asked(board.id, "frontier")) {
      const having = board.rows.filter((row) => row.kind === "measured" && [axis("x", 0), axis("y", 1)].every((each) => each.value(row) !== null));
      const front = onFrontier(having, axis("x", 0), axis("y", 1));
      rows = rows.filter((row) => front.has(row));
    }
    rows = asked(board.id, "sort") ? sorted(board, rows, sort) : rows;
    const picked = asked(board.id, "cols") ? asked(board.id, "cols").split(",") : columns.filter((column) => column.shown).map((column) => column.key);
    const ranking = board.verdicts?.[key] ? key : board.columns.find((column) => board.verdicts?.[column.key])?.key;
    const places = ranking ? ranks(board, ranking) : new Map();
    shown = { board, rows, ranks: places, columns: board.columns.filter((column) => picked.includes(column.key)),
      best: (row, column) => lines.get(row).querySelector(`[data-key="${CSS.escape(column)}"]`).classList.contains("best") };
    for (const cell of table.querySelectorAll("[data-key]")) {
      if (!["rank", "name"].includes(cell.dataset.key)) cell.hidden = !picked.includes(cell.dataset.key);
    }
    for (const head of table.querySelectorAll("thead [data-key]")) {
      if (head.querySelector("button")) head.setAttribute("aria-sort", head.dataset.key !== key ? "none" : (directionOf(board, key) === "higher") === sort.startsWith("-") ? "ascending" : "descending");
    }
    if (ranking) table.querySelector('thead [data-key="rank"]').title = `by ${board.columns.find((column) => column.key === ranking).label}`;
    for (const [row, line] of lines) {
      line.hidden = !rows.includes(row);
      const rank = line.querySelector('[data-key="rank"]');
      if (rank) rank.textContent = places.get(row) ?? "";
    }
    table.tBodies[0].append(...rows.map((row) => lines.get(row)));
    against(board, lines, ranking);
    output.textContent = `${rows.length} of ${board.rows.length} rows`;
    tools.show(picked, sort);
    plot?.show(rows, axis("x", 0), axis("y", 1));
    showPanel();
  }
  part(board.id, show);
}

// A baseline recolours: cells by their own column, rows by the one that ranks.
const WORDS = { "+": "better", "-": "worse", "=": "within noise" };
function against(board, lines, ranking) {
  const base = board.rows.find((row) => row.id === asked(board.id, "base"));
  for (const [row, line] of lines) {
    const known = (key) => (base && row !== base ? WORDS[verdict(board, key, row, base)] : undefined);
    for (const element of [line, ...line.cells]) delete element.dataset.verdict;
    line.classList.toggle("base", row === base);
    const whole = ranking && known(ranking);
    if (whole) line.dataset.verdict = whole;
    for (const cell of line.cells) {
      const word = board.verdicts?.[cell.dataset.key] && known(cell.dataset.key);
      if (word) cell.dataset.verdict = word;
      cell.querySelector(".unseen")?.remove();
      if (word) cell.append(make("span", { class: "unseen" }, ` ${word}`));
    }
  }
}

function toolbar(board, columns, usual, usualSort, want, output, view) {
  const search = make("input", { type: "search", name: "q", placeholder: "name or setting", autocomplete: "off", oninput: (event) => want({ q: event.target.value }) });
  const filters = FILTERS.map(([name, label, of, words]) => {
    const values = valuesOf(board, of);
    if (values.length < 2) return null;
    const several = name === "steps" && values.length > 2 ? [["several", "more than 1"]] : [];
    return choice(name, label, [["", "all"], ...several, ...values.map((value) => [value, words(value)])], (value) => want({ [name]: value }));
  });
  const sorts = [...board.columns, ...columns.filter((column) => !board.columns.includes(column)), { key: "name", label: "Model" }]
    .flatMap((column) => [[column.key, column.label], [`-${column.key}`, `${column.label}, ${column.direction ? "worst first" : "backwards"}`]]);
  if (!usualSort) sorts.unshift(["", "as it comes"]);
  const measured = board.verdicts ? board.ranked.map((place) => board.rows[place]) : [];
  const bases = measured.map((row) => [row.id, [row.title ?? row.name, row.settings].filter(Boolean).join(", ")]);
  const element = make("form", { class: "filters", role: "search", "aria-label": `Rows of ${board.name}`, onsubmit: (event) => event.preventDefault() },
    make("label", { title: "A word finds names and settings; hash:0123 finds hashes, fingerprints and commits." }, "Find ", search), filters,
    usual ? tick("frontier", "On the frontier", (on) => want({ frontier: on ? "1" : "" })) : null,
    choice("sort", "Sort by", sorts, (value) => want({ sort: value === usualSort ? "" : value })),
    bases.length > 1 ? choice("base", "Compare with", [["", "nothing"], ...bases], (value) => want({ base: value })) : null,
    folding("Columns", columns.map((column) => tick("cols", column.label, () => want({ cols: picks() }), column.key))),
    folding("Download", WRITERS.map(([label, suffix, type, write]) => press(label, () => save(`${board.id}.${suffix}`, type, write(view()))))),
    press("Clear", () => clear(board.id), { class: "clear" }), output);
  const picks = () => {
    const keys = [...element.querySelectorAll("[name=cols]")].filter((box) => box.checked).map((box) => box.value);
    return keys.join() === columns.filter((column) => column.shown).map((column) => column.key).join() ? "" : keys.join() || "none";
  };
  const show = (picked, sort) => {
    if (document.activeElement !== search) search.value = asked(board.id, "q");
    for (const select of element.querySelectorAll("select")) select.value = select.name === "sort" ? sort : asked(board.id, select.name);
    for (const box of element.querySelectorAll("[name=cols]")) box.checked = picked.includes(box.value);
    const front = element.querySelector("[name=frontier]");
    if (front) front.checked = Boolean(asked(board.id, "frontier"));
    element.querySelector(".clear").disabled = !parts.get(board.id)?.toString();
  };
  return { element, show };
}
function folding(label, children) {
  const details = make("details", { class: "folding" }, make("summary", {}, label), make("div", { class: "menu" }, children));
  details.addEventListener("keydown", (event) => { if (event.key === "Escape") { details.open = false; details.firstChild.focus(); } });
  details.addEventListener("focusout", (event) => { if (event.relatedTarget && !details.contains(event.relatedTarget)) details.open = false; });
  return details;
}

function plotArea(board, axes, usual, want) {
  const options = axes.map((axis) => [axis.key, axis.label]);
  const select = ["x", "y"].map((name, place) => choice(name, ["Across", "Up"][place], options, (value) => want({ [name]: value === usual[place].key ? "" : value })));
  const place = make("div", { class: "drawing" });
  const kinds = new Set(board.rows.map((row) => (row.kind === "measured" ? (row.nfe === 1 ? "one" : "several") : row.kind)));
  const legend = [["one", "one step"], ["several", "several steps"], ["published", "published"], ["real", "real pictures"]].filter(([kind]) => kinds.has(kind));
  const element = make("figure", {}, make("figcaption", {}, make("h3", {}, "Frontier")), make("div", { class: "filters" }, select), place,
    make("ul", { class: "note legend" }, legend.map(([kind, text]) => make("li", {}, make("span", { class: `key ${kind}` }), text))),
    make("p", { class: "note" }, "Crosses are 95 % intervals. Lines join one model's settings: its steps at equal guidance, its guidance at equal steps. A point is the paler the more surely another row is as good in both and better in one. Passes are counted where a result has them, else two a step with guidance. A point opens its row; the arrow keys go from point to point."));
  let last = null;
  const show = (rows, x, y) => {
    last = [rows, x, y];
    for (const [label, axis] of [[select[0], x], [select[1], y]]) label.querySelector("select").value = axis.key;
    place.replaceChildren(plotted(rows, x, y, SIZE[narrow.matches ? "narrow" : "wide"], (row) => want({ row })));
  };
  narrow.addEventListener("change", () => { if (last) show(...last); });
  return { element, show };
}
