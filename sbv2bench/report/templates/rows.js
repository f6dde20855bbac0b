// Rows of a board by themselves: which of them fit the filters, in which order, with which ranks. Nothing here touches the page.

const SIZES = [["small", "under 10 M", 0], ["middle", "10 M to 1 B", 1e7], ["large", "1 B and more", 1e9]];
const sizeOf = (row) => (row.parameters ? SIZES.filter((size) => row.parameters >= size[2]).at(-1)[0] : "");
const stepsOf = (row) => (row.nfe ? String(row.nfe) : "");

// name, label, of a row, words of a value
const FILTERS = [
  ["steps", "Steps", stepsOf, (value) => value],
  ["licence", "Licence", (row) => row.licence ?? "", (value) => value],
  ["size", "Size", sizeOf, (value) => SIZES.find((size) => size[0] === value)[1]],
  ["family", "Family", (row) => row.family ?? "", (value) => value],
  ["origin", "Origin", (row) => row.kind, (value) => ({ real: "real pictures" })[value] ?? value],
];
function valuesOf(board, of) {
  return [...new Set(board.rows.map(of))].filter(Boolean).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
}

// A word finds what is in a name or a setting; hash:word what is in a hash, a fingerprint or a commit.
function found(row, text) {
  const named = [row.title, row.name, row.settings, row.short].join(" ").toLowerCase();
  const hashes = () => [...(row.weights ?? []).flat(), ...(row.facts ?? []).map((fact) => fact[1])].join(" ").toLowerCase();
  return text.toLowerCase().split(/\s+/).filter(Boolean).every((word) =>
    word.startsWith("hash:") ? hashes().includes(word.slice(5)) : named.includes(word));
}

function valueOf(row, key) {
  if (key === "name") return row.title ?? row.name;
  return row.numbers?.[key]?.value ?? row[key] ?? null;
}
function directionOf(board, key) {
  return [...board.columns, ...content.fields].find((column) => column.key === key)?.direction ?? "lower";
}
// The best first, or with "-" before the key the worst; a row without a value is last either way.
function sorted(board, rows, sort) {
  const key = sort.replace(/^-/, "");
  const sign = (directionOf(board, key) === "higher" ? -1 : 1) * (sort.startsWith("-") ? -1 : 1);
  return [...rows].sort((a, b) => {
    const [one, two] = [valueOf(a, key), valueOf(b, key)];
    if (one === null || two === null) return (one === null) - (two === null);
    return sign * (typeof one === "string" ? one.localeCompare(String(two), "en", { numeric: true }) : one - two);
  });
}

// "+", "-" or "=": what is surely known of a row against another in a column.
function verdict(board, key, row, other) {
  const [one, two] = [row, other].map((each) => (board.ranked ?? []).indexOf(board.rows.indexOf(each)));
  return one < 0 || two < 0 ? " " : board.verdicts?.[key]?.[one]?.[two] ?? " ";
}
function ranks(board, key) {
  const having = (board.ranked ?? []).map((place) => board.rows[place]).filter((row) => row.numbers?.[key]);
  if (!board.verdicts?.[key]) return new Map();
  return new Map(having.map((row) => {
    const letters = having.map((other) => verdict(board, key, row, other));
    const count = (letter) => letters.filter((each) => each === letter).length;
    const [first, last] = [1 + count("-"), having.length - count("+")];
    return [row, first === last ? `${first}` : `${first}-${last}`];
  }));
}

// How surely some other row is at least as good in both and better in one: by draws of normal errors, taken as independent.
const DRAWS = 200;
function dominated(rows, x, y) {
  const uniform = random(1);
  const normal = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  const counts = rows.map(() => 0);
  for (let draw = 0; draw < DRAWS; draw += 1) {
    const points = rows.map((row) => [x, y].map((axis) => axis.sign * (axis.value(row) + axis.error(row) * normal())));
    points.forEach(([across, up], place) => {
      if (points.some(([a, b]) => a <= across && b <= up && (a < across || b < up))) counts[place] += 1;
    });
  }
  return new Map(rows.map((row, place) => [row, counts[place] / DRAWS]));
}
function onFrontier(rows, x, y) {
  const at = (row) => [x.sign * x.value(row), y.sign * y.value(row)];
  return new Set(rows.filter((row) => {
    const [across, up] = at(row);
    return !rows.some((other) => { const [a, b] = at(other); return a <= across && b <= up && (a < across || b < up); });
  }));
}
