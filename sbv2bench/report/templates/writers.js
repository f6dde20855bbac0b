// The rows that are shown, as files: numbers in full in CSV and JSON, as they are read in Markdown and LaTeX.

const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
const markdown = (text) => text.replace(/([\\`*_<>|[\]])/g, "\\$1").replace(/\s+/g, " ");
const SIGNS = {
  "\\": "\\textbackslash{}", "&": "\\&", "%": "\\%", $: "\\$", "#": "\\#", _: "\\_", "{": "\\{", "}": "\\}",
  "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "±": "$\\pm$", "†": "\\dag{}", "↓": "$\\downarrow$", "↑": "$\\uparrow$",
};
const latex = (text) => text.replace(/[\\&%$#_{}~^±†↓↑]/g, (sign) => SIGNS[sign]).replace(/\s+/g, " ");
const arrow = (column) => (column.direction === "lower" ? "↓" : "↑");

function csvOf(view) {
  const heads = ["rank", "name", "model", "settings", "origin", ...content.fields.map((field) => field.key)];
  const lines = view.rows.map((row) => [
    view.ranks.get(row) ?? "", row.title ?? row.name, row.name, row.settings ?? "", row.kind, ...content.fields.map((field) => row[field.key] ?? ""),
    ...view.columns.flatMap((column) => { const number = row.numbers?.[column.key]; return [number?.value ?? "", ...(number?.interval ?? ["", ""])]; }),
  ]);
  const metrics = view.columns.flatMap((column) => [column.key, `${column.key}_ci95_low`, `${column.key}_ci95_high`]);
  return [[...heads, ...metrics], ...lines].map((line) => `${line.map((cell) => quoted(String(cell))).join(",")}\n`).join("");
}
function jsonOf(view) {
  const rows = view.rows.map((row) => ({ rank: view.ranks.get(row) ?? null, ...row }));
  return `${JSON.stringify({ board: view.board.name, address: address(), rows }, null, 1)}\n`;
}
function cells(view, row) {
  const numbers = view.columns.map((column) => { const number = row.numbers?.[column.key]; return number ? `${number.text} ${number.spread ?? ""}`.trim() : ""; });
  return [view.ranks.get(row) ?? "", row.title ?? row.name, row.settings ?? "", ...numbers];
}
function heads(view) { return ["Rank", "Model", "Settings", ...view.columns.map((column) => `${column.label} ${arrow(column)}`)]; }
function best(view, row) { return [false, false, false, ...view.columns.map((column) => view.best(row, column.key))]; }
function markdownOf(view) {
  const line = (texts) => `| ${texts.join(" | ")} |\n`;
  const rows = view.rows.map((row) => { const bold = best(view, row); return cells(view, row).map((text, place) => (bold[place] && text ? `**${markdown(text)}**` : markdown(text))); });
  return [heads(view).map(markdown), heads(view).map(() => "---"), ...rows].map(line).join("");
}
function latexOf(view) {
  const line = (texts) => `${texts.join(" & ")} \\\\\n`;
  const rows = view.rows.map((row) => { const bold = best(view, row); return line(cells(view, row).map((text, place) => (bold[place] && text ? `\\textbf{${latex(text)}}` : latex(text)))); });
  const form = `rll${"r".repeat(view.columns.length)}`;
  return `\\begin{tabular}{${form}}\n\\toprule\n${line(heads(view).map(latex))}\\midrule\n${rows.join("")}\\bottomrule\n\\end{tabular}\n`;
}
const WRITERS = [
  ["CSV", "csv", "text/csv", csvOf], ["JSON", "json", "application/json", jsonOf],
  ["Markdown", "md", "text/markdown", markdownOf], ["LaTeX", "tex", "application/x-tex", latexOf],
];

function bibtexOf(board, row) {
  const plain = (text) => latex(text).replaceAll('"', "''");
  const note = [row.settings, ...board.columns.filter((column) => row.numbers?.[column.key]).map((column) => {
    const number = row.numbers[column.key];
    return `${column.label} ${number.text} ${number.spread ?? ""}`.trim();
  })].filter(Boolean).join("; ");
  const key = `sbv2bench-${board.id}-${row.id}`.replace(/[^A-Za-z0-9.:-]/g, "-");
  const year = row.date ? `  year = {${row.date.slice(0, 4)}},\n` : "";
  return `@misc{${key},\n  title = {${plain(`${row.title ?? row.name} (${row.name}) on ${board.name}, measured by sbv2bench`)}},\n${year}  note = {${plain(note)}}\n}\n`;
}
