// The same captions and noise through every model: tiles in their own pixels, ordered by what is asked.

const ORDERS = [["", "captions in order"], ["worst", "worst of A first"], ["best", "best of A first"], ["disagree", "A and B differ most"], ["spread", "all models differ most"]];
const FEW = 6; // captions that a telephone shows at first

function setUpGallery(gallery) {
  const section = document.getElementById("gallery"), atlas = document.getElementById("atlas");
  const models = gallery.models, want = (changes) => ask("gallery", changes);
  const byRow = (name, place) => models.find((model) => model.name === asked("gallery", name)) ?? models.filter((model) => model.kind === "measured")[place] ?? models[0];
  const named = models.map((model) => [model.name, model.title]);
  const usual = gallery.picked ? models : models.slice(0, 10);
  const metrics = gallery.metrics ?? [];
  const columns = folding("Models", models.map((model) => tick("models", model.title, () => want({ models: picks() }), model.name)));
  const form = make("form", { class: "filters", "aria-label": "Pictures", onsubmit: (event) => event.preventDefault() },
    choice("a", "A", named, (value) => want({ a: value })), choice("b", "B", named, (value) => want({ b: value })),
    metrics.length ? choice("metric", "Score", metrics.map((metric) => [metric.key, metric.label]), (value) => want({ metric: value })) : null,
    metrics.length ? choice("order", "Order", ORDERS, (value) => want({ order: value })) : null,
    tick("pair", "A and B alone, with their difference", (on) => want({ pair: gallery.picked ? (on ? "" : "0") : on ? "1" : "" })), columns, press("Clear", () => clear("gallery"), { class: "clear" }));
  section.querySelector(".tools").append(form);
  const place = section.querySelector(".pictures");
  const picks = () => {
    const keys = [...form.querySelectorAll("[name=models]")].filter((box) => box.checked).map((box) => box.value);
    return keys.join() === usual.map((model) => model.name).join() ? "" : keys.join();
  };
  function show() {
    const [a, b] = [byRow("a", 0), byRow("b", 1)], pair = gallery.picked ? asked("gallery", "pair") !== "0" && models.length < 4 : Boolean(asked("gallery", "pair"));
    const metric = metrics.find((each) => each.key === asked("gallery", "metric")) ?? metrics[0];
    const names = asked("gallery", "models") ? asked("gallery", "models").split(",") : usual.map((model) => model.name);
    const real = models.filter((model) => model.kind === "real");
    const shown = pair ? [...new Set([a, b, ...real])] : models.filter((model) => names.includes(model.name) || real.includes(model));
    for (const select of form.querySelectorAll("select")) select.value = { a: a.name, b: b.name, metric: metric?.key, order: asked("gallery", "order") }[select.name];
    for (const box of form.querySelectorAll("[name=models]")) box.checked = names.includes(box.value);
    form.querySelector("[name=pair]").checked = pair;
    form.querySelector(".clear").disabled = !parts.get("gallery")?.toString();
    const order = ordered(gallery, metric, asked("gallery", "order"), a, b);
    const few = narrow.matches && !asked("gallery", "all") && order.length > FEW;
    place.replaceChildren(pictureTable(gallery, shown, few ? order.slice(0, FEW) : order, metric, pair ? [a, b] : null));
    if (few) place.append(press(`Show all ${order.length} captions`, () => want({ all: "1" })));
    painted(gallery, atlas, place);
  }
  narrow.addEventListener("change", show);
  addEventListener("beforeprint", () => { for (const canvas of section.querySelectorAll("canvas:not(.painted)")) paint(gallery, atlas, canvas); });
  part("gallery", show);
  if (!gallery.picked) setUpVotes(gallery, atlas, section.querySelector(".votes"));
}

function ordered(gallery, metric, order, a, b) {
  const captions = gallery.captions.map((caption, place) => place);
  const score = (model, place) => model.scores?.[metric?.key]?.[place];
  if (!metric || !order) return captions;
  const sign = metric.direction === "higher" ? 1 : -1;
  const all = (place) => gallery.models.filter((model) => model.kind === "measured").map((model) => score(model, place)).filter((value) => value !== undefined);
  const weight = {
    worst: (place) => sign * score(a, place), best: (place) => -sign * score(a, place),
    disagree: (place) => -Math.abs(score(a, place) - score(b, place)), spread: (place) => Math.min(...all(place)) - Math.max(...all(place)),
  }[order];
  return captions.map((place) => [weight(place), place]).sort((one, two) => (Number.isNaN(one[0]) ? 1 : 0) - (Number.isNaN(two[0]) ? 1 : 0) || one[0] - two[0] || one[1] - two[1]).map(([, place]) => place);
}

function pictureTable(gallery, shown, order, metric, pair) {
  const digits = metric ? digitsOf(shown, metric) : 0;
  const heads = [...shown.map((model) => model.title), ...(pair ? ["Difference, four times"] : [])];
  const lines = order.map((place) => {
    const [number, text] = gallery.captions[place];
    const tiles = shown.map((model) => {
      const score = model.scores?.[metric?.key]?.[place];
      return make("td", { "data-label": model.title }, tile(gallery, gallery.models.indexOf(model), place, `${model.title}: ${text}`), score === undefined ? null : make("small", {}, score.toFixed(digits)));
    });
    if (pair) tiles.push(make("td", { "data-label": "Difference" }, tile(gallery, pair.map((model) => gallery.models.indexOf(model)).join("-"), place, `Difference: ${text}`)));
    return make("tr", {}, make("th", { scope: "row" }, text, make("small", {}, `caption ${number}`)), tiles);
  });
  return make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Pictures by caption and model" },
    make("table", {}, make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Caption"), heads.map((head) => make("th", { scope: "col" }, head)))), make("tbody", {}, lines)));
}
function digitsOf(models, metric) {
  const values = models.flatMap((model) => model.scores?.[metric.key] ?? []);
  const most = Math.max(...values.map(Math.abs), 0);
  return values.every(Number.isInteger) ? 0 : most > 20 ? 1 : most > 2 ? 2 : 3;
}

// A canvas of the tile's own pixels; the style sheet enlarges it without blurring.
function tile(gallery, model, caption, label) {
  return make("canvas", { width: gallery.side, height: gallery.side, role: "img", "aria-label": label, "data-model": model, "data-caption": caption });
}
function painted(gallery, atlas, place) {
  if (!atlas.complete) { atlas.addEventListener("load", () => painted(gallery, atlas, place), { once: true }); return; }
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); paint(gallery, atlas, entry.target); }
  }, { rootMargin: "100%" }); // a screen ahead: hundreds of tiles at once would hold the page up
  for (const canvas of place.querySelectorAll("canvas")) seen.observe(canvas);
}
function paint(gallery, atlas, canvas) {
  canvas.classList.add("painted");
  const side = gallery.side, caption = Number(canvas.dataset.caption);
  const rows = canvas.dataset.model.split("-").map(Number), paper = canvas.getContext("2d", { willReadFrequently: rows.length > 1 });
  const pixels = rows.map((row) => {
    paper.drawImage(atlas, caption * side, row * side, side, side, 0, 0, side, side);
    return rows.length > 1 ? paper.getImageData(0, 0, side, side) : null;
  });
  if (rows.length < 2) return;
  const [one, two] = pixels;
  for (let place = 0; place < one.data.length; place += 1) {
    one.data[place] = place % 4 === 3 ? 255 : Math.min(255, 4 * Math.abs(one.data[place] - two.data[place]));
  }
  paper.putImageData(one, 0, 0);
}
