// Lines over time, drawn without a library.

import { h, svg } from "./ui.js";

/** Answers the least round number that is not below another one. */
function round(most) {
  if (most <= 0) return 1;
  const ten = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((step) => step * ten).find((step) => step >= most * (1 - 1e-9));
}

/**
 * Draws what was measured. `lines` have a name, the number of a look and as many values as there are times; `null` leaves a gap. The time
 * runs to the right, and `spanMs` is how much of it there is room for.
 * `least` is the least that the height stands for.
 * @param {{key: string, title: string, at: number[], spanMs: number, lines: {name: string, look: number, values: (number | null)[]}[], write: (value: number) => string, least: number, empty: string, most: string, ago: string, now: string}} what
 */
export function chart({ key, title, at, spanMs, lines, write, least, empty, most: mostText, ago, now }) {
  const most = lines.reduce((all, { values }) => values.reduce((most_, value) => Math.max(most_, value ?? 0), all), 0);
  const top = round(Math.max(most, least));
  const last = at.at(-1) ?? 0;
  const place = (value, n) => `${(100 - (100 * (last - at[n])) / spanMs).toFixed(2)} ${(40 - (38 * value) / top).toFixed(2)}`;
  const isGap = (values, n) => values[n] === null || values[n] === undefined;
  const step = (values, n) => `${isGap(values, n - 1) ? "M" : "L"}${place(values[n], n)}`;
  // A value between two gaps is a dot.
  const dots = (values) => values.map((_, n) => (!isGap(values, n) && isGap(values, n - 1) && isGap(values, n + 1) ? `M${place(values[n], n)}h0.01` : "")).join("");
  const path = (values) => values.map((_, n) => (isGap(values, n) ? "" : step(values, n))).join("");
  const latest = (values) => {
    const value = values.findLast((one) => one !== null);
    return value === undefined ? "–" : write(value);
  };
  const said = lines.map(({ name, values }) => `${name} ${latest(values)}`.trim());
  const drawn = svg("svg", { class: "line", viewBox: "0 0 100 40", preserveAspectRatio: "none", role: "img", "aria-label": `${title}: ${said.join(", ")}` });
  drawn.append(svg("line", { x1: 0, x2: 100, y1: 2, y2: 2 }), svg("line", { x1: 0, x2: 100, y1: 40, y2: 40 }));
  lines.forEach(({ values, look }) => drawn.append(svg("path", { class: `line-${look}`, d: path(values) }), svg("path", { class: `line-${look} dot`, d: dots(values) })));
  const isEmpty = lines.every(({ values }) => values.every((value) => value === null));
  const legend = lines.map(({ name, values, look }) =>
    h("li", {}, svg("svg", { class: "swatch", viewBox: "0 0 16 4", "aria-hidden": "true" }, svg("path", { class: `line-${look}`, d: "M0 2L16 2" })), name, " ", h("b", { class: "number" }, latest(values))),
  );
  return h(
    "figure",
    { class: "card chart", "data-key": key },
    h("figcaption", { class: "row apart" }, h("h3", {}, title), h("span", { class: "small number" }, isEmpty ? "" : `${mostText} ${write(top)}`)),
    h("div", { class: "plot" }, drawn, isEmpty ? h("span", { class: "small" }, empty) : null),
    h("div", { class: "row apart small", "aria-hidden": "true" }, h("span", {}, ago), h("span", {}, now)),
    h("ul", { class: "legend small" }, legend),
  );
}
