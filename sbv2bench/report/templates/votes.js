// Blind votes on pairs of pictures: names are hidden until the vote is cast; strengths by Bradley and Terry with a bootstrap interval.

const RESAMPLES = 200;

function setUpVotes(gallery, atlas, place) {
  const models = gallery.models.filter((model) => model.kind === "measured");
  if (models.length < 2) return;
  const store = `votes-${gallery.board ?? "own"}`;
  let votes = readVotes(kept(store), models), pair = null, told = "";
  const next = () => {
    const draw = (count) => Math.floor(Math.random() * count);
    const left = draw(models.length), right = (left + 1 + draw(models.length - 1)) % models.length;
    return { caption: draw(gallery.captions.length), left: models[left], right: models[right] };
  };
  const vote = (winner) => {
    if (!pair) return;
    votes.push({ caption: gallery.captions[pair.caption][0], left: pair.left.name, right: pair.right.name, winner });
    keep(store, JSON.stringify(votes));
    told = `Left was ${pair.left.title}, right was ${pair.right.title}; ${{ left: "left", right: "right", tie: "neither" }[winner]} preferred.`;
    pair = next();
    show();
  };
  const side = (name) => make("figure", {}, tile(gallery, gallery.models.indexOf(pair[name]), pair.caption, `The ${name} picture`));
  function show() {
    const focus = place.contains(document.activeElement) ? document.activeElement.dataset.key : "";
    pair ??= next();
    place.replaceChildren(
      make("h3", {}, "Which is better? Your votes"),
      make("p", {}, "Two models drew the same caption from the same noise; their names are hidden until you vote. The keys ←, → and ↓ (neither) vote while this part has the focus. Votes stay in this browser."),
      make("div", { class: "ballot", tabindex: "0", role: "group", "aria-label": "Two pictures to vote on", "data-key": "ballot", onkeydown: keys },
        make("p", { class: "caption" }, gallery.captions[pair.caption][1]), make("div", { class: "pair" }, side("left"), side("right")),
        make("p", { class: "actions" }, press("← Left", () => vote("left"), { "data-key": "left" }), press("↓ Neither", () => vote("tie"), { "data-key": "tie" }), press("Right →", () => vote("right"), { "data-key": "right" })),
        make("p", { class: "note", role: "status" }, told)),
      standings(models, votes),
      make("p", { class: "actions" },
        press("Export votes", () => save("sbv2bench-votes.json", "application/json", exported(gallery, models, votes)), { "data-key": "export", disabled: !votes.length }),
        make("label", { class: "file" }, "Add votes from a file ", make("input", { type: "file", accept: ".json,application/json", onchange: (event) => add(event.target.files[0]) })),
        press("Forget votes", () => { votes = []; told = ""; keep(store, ""); show(); }, { "data-key": "forget", disabled: !votes.length })));
    painted(gallery, atlas, place);
    if (focus) place.querySelector(`[data-key="${focus}"]:not([disabled])`)?.focus();
  }
  function keys(event) {
    const winner = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" }[event.key];
    if (!winner) return;
    event.preventDefault();
    vote(winner);
  }
  async function add(file) {
    votes = [...votes, ...readVotes(await file.text(), models)];
    keep(store, JSON.stringify(votes));
    show();
  }
  show();
}

// Votes of a text, those alone that are votes on these models.
function readVotes(text, models) {
  try {
    const read = JSON.parse(text || "[]"), names = new Set(models.map((model) => model.name));
    return (Array.isArray(read) ? read : read.votes ?? []).filter((vote) => names.has(vote.left) && names.has(vote.right) && ["left", "right", "tie"].includes(vote.winner))
      .map(({ caption, left, right, winner }) => ({ caption: Number(caption), left, right, winner }));
  } catch { return []; }
}
function exported(gallery, models, votes) {
  return `${JSON.stringify({ what: "your votes, on pairs of pictures with hidden names", board: gallery.board ?? "", votes, strengths: strengths(models, votes) }, null, 1)}\n`;
}

// Strengths by Hunter's (2004) minorisation of the Bradley-Terry likelihood; a tie is half a win of either. Every two models share
// one imagined tie, so that who has lost or won everything has a finite strength. Returned as log10 units of 400, mean 0 (Elo's).
function bradleyTerry(count, games) {
  const wins = new Float64Array(count), met = Array.from({ length: count }, () => new Float64Array(count));
  for (let one = 0; one < count; one += 1) {
    for (let two = one + 1; two < count; two += 1) { met[one][two] += 0.1; met[two][one] += 0.1; wins[one] += 0.05; wins[two] += 0.05; }
  }
  for (const [left, right, share] of games) { met[left][right] += 1; met[right][left] += 1; wins[left] += share; wins[right] += 1 - share; }
  let strength = new Float64Array(count).fill(1);
  for (let turn = 0; turn < 60; turn += 1) {
    strength = strength.map((own, one) => wins[one] / met[one].reduce((sum, games, two) => sum + (games ? games / (own + strength[two]) : 0), 0));
  }
  const logs = [...strength].map((value) => 400 * Math.log10(value)), mean = logs.reduce((sum, value) => sum + value, 0) / count;
  return logs.map((value) => value - mean);
}
function strengths(models, votes) {
  const voted = models.filter((model) => votes.some((vote) => vote.left === model.name || vote.right === model.name));
  if (!voted.length) return [];
  const place = new Map(voted.map((model, number) => [model.name, number]));
  const games = votes.map((vote) => [place.get(vote.left), place.get(vote.right), { left: 1, right: 0, tie: 0.5 }[vote.winner]]);
  const own = bradleyTerry(voted.length, games), uniform = random(1), drawn = [];
  for (let draw = 0; draw < RESAMPLES; draw += 1) drawn.push(bradleyTerry(voted.length, games.map(() => games[Math.floor(uniform() * games.length)])));
  return voted.map((model, number) => {
    const all = drawn.map((values) => values[number]).sort((a, b) => a - b);
    return { model: model.name, title: model.title, strength: own[number], ci95: [all[Math.floor(0.025 * RESAMPLES)], all[Math.ceil(0.975 * RESAMPLES) - 1]],
      votes: games.filter((game) => game[0] === number || game[1] === number).length };
  }).sort((a, b) => b.strength - a.strength);
}
function standings(models, votes) {
  const rows = strengths(models, votes);
  if (!rows.length) return make("p", { class: "note" }, "No vote yet.");
  return make("table", { class: "standings" }, make("caption", {}, `Your votes: ${votes.length}`),
    make("thead", {}, make("tr", {}, ["Model", "Strength (Bradley-Terry, Elo's scale)", "95 % by bootstrap", "Votes"].map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, rows.map((row) => make("tr", {}, make("th", { scope: "row" }, row.title), make("td", { class: "number" }, row.strength.toFixed(0)),
      make("td", { class: "number" }, `[${row.ci95.map((end) => end.toFixed(0)).join(", ")}]`), make("td", { class: "number" }, String(row.votes))))));
}
