// The frontier: two columns against each other, with 95 % crosses, one model's settings joined, and dominated points faded.

const SIZE = { wide: [860, 460], narrow: [358, 380], panel: [356, 230] };
const ROOM = { left: 58, right: 18, top: 18, bottom: 46 };

// What can be an axis: latency of each machine, steps and passes on logarithmic scales, and every metric.
function axesOf(board) {
  const error = (key) => (row) => { const interval = row.numbers?.[key]?.interval; return interval ? (interval[1] - interval[0]) / 3.92 : 0; };
  const axes = [];
  for (const column of board.columns) {
    const axis = { key: column.key, label: column.label + (column.unit ? `, ${column.unit}` : ""), sign: column.direction === "lower" ? 1 : -1,
      log: column.key.startsWith("latency") || (column.key.startsWith("fid") && column.direction === "lower"), value: (row) => row.numbers?.[column.key]?.value ?? null,
      error: error(column.key), interval: (row) => row.numbers?.[column.key]?.interval ?? null };
    if (!column.key.startsWith("latency")) { axes.push(axis); continue; }
    const machines = [...new Set(board.rows.map((row) => row.numbers?.[column.key]?.method).filter(Boolean))];
    machines.forEach((machine, place) => {
      const own = (of) => (row) => (row.numbers?.[column.key]?.method === machine ? of(row) : null);
      axes.push({ ...axis, key: place ? `${column.key}.${place}` : column.key, value: own(axis.value), interval: own(axis.interval),
        label: `${axis.label}${machine ? `: ${machine.replace(/^.*repeats, /, "")}` : ""}` });
    });
  }
  const plain = { sign: 1, log: true, error: () => 0, interval: () => null };
  for (const [key, label] of [["nfe", "steps (network evaluations)"], ["passes", "network passes an image"]]) {
    if (board.rows.some((row) => row[key])) axes.push({ ...plain, key, label, value: (row) => row[key] || null });
  }
  return axes.filter((axis) => board.rows.filter((row) => axis.value(row) !== null).length > 1);
}
function usualAxes(axes, rows) {
  const up = axes.find((axis) => axis.key === "fid") ?? axes[0];
  const varies = (axis) => new Set(rows.map(axis.value).filter((value) => value !== null)).size > 1;
  const wanted = ["passes", "latency_paper_ms", "latency_ms", "nfe"].map((key) => axes.find((axis) => axis.key === key));
  return [[...wanted, ...axes].find((axis) => axis && axis !== up && varies(axis)) ?? axes.find((axis) => axis !== up), up];
}

function scaleOf(axis, rows, length) {
  const all = rows.flatMap((row) => [axis.value(row), ...(axis.interval(row) ?? [])]).filter((value) => !axis.log || value > 0);
  const [least, most] = [Math.min(...all), Math.max(...all)];
  const to = axis.log ? Math.log : (value) => value;
  const room = (to(most) - to(least)) * 0.06 || 0.1 * Math.abs(to(most)) || 1;
  const [low, high] = [to(least) - room, to(most) + room];
  const place = (value) => (length * (to(value) - low)) / (high - low);
  return { place, ticks: axis.log ? logTicks(Math.exp(low), Math.exp(high)) : ticks(low, high) };
}
function ticks(low, high) {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough);
  const found = [];
  for (let count = Math.ceil(low / step); count * step <= high; count += 1) found.push(Number((count * step).toPrecision(12)));
  return found;
}
function logTicks(low, high) {
  const rounds = high / low > 30 ? [1, 2, 5] : high / low > 5 ? [1, 1.5, 2, 3, 5, 7] : [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power += 1) found.push(...rounds.map((one) => Number((one * 10 ** power).toPrecision(12))));
  return found.filter((tick) => tick >= low && tick <= high);
}

const said = (axis, row) => { const number = row.numbers?.[axis.key.split(".")[0]]; return `${axis.label} ${number ? `${number.text} ${number.spread ?? ""}`.trim() : axis.value(row)}`; };

// A metric along a sweep: the points joined, the best of them coloured.
function curved(sweep, curve, size) {
  const rows = curve.points.map(([weight, value, interval]) => ({ weight, value, interval: interval ?? null, kind: "measured", nfe: 0 }));
  const x = { label: sweep.across, log: false, value: (row) => row.weight, interval: () => null };
  const y = { label: curve.label, log: false, value: (row) => row.value, interval: (row) => row.interval };
  const values = rows.map((row) => row.value), best = (curve.direction === "lower" ? Math.min : Math.max)(...values);
  rows.find((row) => row.value === best).nfe = 1;
  const frame = framed(rows, x, y, size), spots = rows.map(frame.at);
  const tip = (row) => `${sweep.axis}: ${row.weight}\n${curve.label} ${plain(row.value)}${row.interval ? `, 95 % [${row.interval.map(plain).join(", ")}]` : ""}`;
  const marks = rows.map((row, place) => mark(row, spots[place], 0, tip(row), null));
  walked(marks, spots);
  const line = draw("path", { class: "joined", d: `M${spots.map((spot) => spot.join(" ")).join("L")}` });
  return draw("svg", { class: "plot", viewBox: `0 0 ${size[0]} ${size[1]}`, role: "group", "aria-label": `${curve.label}: ${sweep.name}` },
    frame.grid, line, frame.crosses, marks, frame.titles(sweep.across, `${curve.label} ${arrow(curve)}`));
}

// What every plot has: scales, a grid with its numbers, crosses, and the axes' titles.
function framed(rows, x, y, size) {
  const [width, height] = [size[0] - ROOM.left - ROOM.right, size[1] - ROOM.top - ROOM.bottom];
  const [across, up] = [scaleOf(x, rows, width), scaleOf(y, rows, height)];
  const atX = (value) => ROOM.left + across.place(value), atY = (value) => ROOM.top + height - up.place(value);
  const at = (row) => [atX(x.value(row)), atY(y.value(row))];
  const grid = [
    ...across.ticks.map((tick) => [draw("path", { class: "grid", d: `M${atX(tick)} ${ROOM.top}v${height}` }), draw("text", { x: atX(tick), y: ROOM.top + height + 16, "text-anchor": "middle" }, `${tick}`)]),
    ...up.ticks.map((tick) => [draw("path", { class: "grid", d: `M${ROOM.left} ${atY(tick)}h${width}` }), draw("text", { x: ROOM.left - 8, y: atY(tick) + 4, "text-anchor": "end" }, `${tick}`)]),
  ].flat();
  const crosses = rows.flatMap((row) => {
    const [left, top] = at(row), [level, upright] = [x.interval(row), y.interval(row)];
    const ends = [
      level && (!x.log || level[0] > 0) ? `M${atX(level[0])} ${top}H${atX(level[1])}` : "",
      upright && (!y.log || upright[0] > 0) ? `M${left} ${atY(upright[0])}V${atY(upright[1])}` : "",
    ].join("");
    return ends ? [draw("path", { class: "cross", d: ends })] : [];
  });
  const titles = (below, above) => [
    draw("text", { class: "title", x: ROOM.left + width, y: size[1] - 8, "text-anchor": "end" }, below), draw("text", { class: "title", x: 4, y: 11 }, above),
  ];
  return { at, grid, crosses, titles };
}

// rows: what is shown; open: called with the row whose point is pressed.
function plotted(rows, x, y, size, open) {
  const shown = rows.filter((row) => [x, y].every((axis) => axis.value(row) !== null && (!axis.log || axis.value(row) > 0)));
  if (shown.length < 2) return make("p", { class: "note" }, "Fewer than two of these rows have both numbers, so nothing is drawn.");
  const frame = framed(shown, x, y, size), at = frame.at;
  const chance = dominated(shown, x, y), front = onFrontier(shown.filter((row) => row.kind === "measured"), x, y);
  const spots = shown.map(at);
  const marks = shown.map((row, place) => mark(row, spots[place], chance.get(row), `${row.title ?? row.name}, ${row.settings ?? ""}\n${said(y, row)}\n${said(x, row)}\ndominated here with probability ${chance.get(row).toFixed(2)}`, open));
  const better = (axis) => (axis.sign > 0 ? "lower is better" : "higher is better");
  const svg = draw("svg", { class: "plot", viewBox: `0 0 ${size[0]} ${size[1]}`, role: "group", "aria-label": `${y.label} against ${x.label}` },
    frame.grid, joined(shown, at), frame.crosses, marks, names(shown, spots, front, size), frame.titles(`${x.label} (${better(x)})`, `${y.label} (${better(y)})`));
  walked(marks, spots);
  return svg;
}

function mark(row, [left, top], chance, tip, open) {
  const looks = row.kind === "real" ? ["path", { d: `M${left} ${top - 6}L${left + 6} ${top}L${left} ${top + 6}L${left - 6} ${top}Z` }]
    : row.kind === "published" ? ["rect", { x: left - 4.5, y: top - 4.5, width: 9, height: 9 }] : ["circle", { cx: left, cy: top, r: 5 }];
  const shape = draw(looks[0], { ...looks[1], class: `mark ${row.kind} ${row.nfe === 1 ? "one" : "several"}`, role: open ? "button" : "img", tabindex: "-1",
    "data-row": row.id, "aria-label": tip, "fill-opacity": (1 - 0.75 * chance).toFixed(3) });
  if (open) shape.addEventListener("click", () => open(row.id));
  for (const event of ["pointerenter", "focus"]) shape.addEventListener(event, () => tell(shape, tip));
  for (const event of ["pointerleave", "blur"]) shape.addEventListener(event, hush);
  return shape;
}
// One stop of the tab key; the arrows go from point to point, from left to right.
function walked(marks, spots) {
  const order = marks.map((each, place) => place).sort((a, b) => spots[a][0] - spots[b][0] || spots[a][1] - spots[b][1]);
  marks[order[0]].setAttribute("tabindex", "0");
  order.forEach((place, turn) => marks[place].addEventListener("keydown", (event) => {
    if (event.key === "Escape") hush();
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); marks[place].dispatchEvent(new MouseEvent("click")); }
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = marks[order[(turn + step + order.length) % order.length]];
    marks[place].setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus();
  }));
}
// One model at equal guidance over its steps, and at equal steps over its guidance.
function joined(rows, at) {
  const ways = new Map();
  for (const row of rows) {
    for (const [way, along] of [[`${row.name} at guidance ${row.guidance}`, row.nfe], [`${row.name} in ${row.nfe} steps`, row.guidance]]) {
      if (row.kind === "measured") ways.set(way, [...(ways.get(way) ?? []), [along, row]]);
    }
  }
  return [...ways.values()].filter((way) => new Set(way.map(([along]) => along)).size > 2).map((way) =>
    draw("path", { class: "joined", d: `M${way.sort((a, b) => a[0] - b[0]).map(([, row]) => at(row).join(" ")).join("L")}` }));
}
// A name beside every point that has room for one, those of the frontier first.
function names(rows, spots, front, [width, height]) {
  const taken = spots.map(([left, top]) => [left - 6, top - 6, left + 6, top + 6]);
  const places = rows.map((row, place) => place).sort((a, b) => front.has(rows[b]) - front.has(rows[a]));
  return places.flatMap((place) => {
    const text = rows[place].short.length > 34 ? `${rows[place].short.slice(0, 33)}…` : rows[place].short, length = 6.2 * text.length;
    for (const [right, down, anchor] of [[9, 4, "start"], [-9, 4, "end"], [7, -7, "start"], [7, 15, "start"], [-7, -7, "end"], [-7, 15, "end"]]) {
      const [left, top] = [spots[place][0] + right, spots[place][1] + down];
      const from = anchor === "start" ? left : left - length, box = [from, top - 10, from + length, top + 3];
      const free = from > ROOM.left && box[2] < width && top > 18 && top < height - ROOM.bottom && !taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3]);
      if (!free) continue;
      taken.push(box);
      return [draw("text", { class: front.has(rows[place]) ? "name front" : "name", x: left, y: top, "text-anchor": anchor }, text)];
    }
    return [];
  });
}

// A point says what it is when it is pointed at or reached by the arrow keys.
function tell(mark, text) {
  const tip = document.getElementById("tip"), box = mark.getBoundingClientRect();
  tip.textContent = text;
  tip.hidden = false;
  tip.style.left = `${Math.max(8, Math.min(box.right + 8, innerWidth - tip.offsetWidth - 8))}px`;
  const above = box.top - tip.offsetHeight - 8;
  tip.style.top = `${above > 8 ? above : box.bottom + 8}px`;
}
function hush() { document.getElementById("tip").hidden = true; }
