"use strict";
// The chart of a report, drawn from the figures beside it; and tables that sort. No network, no library.
(() => {
  const COLOURS = ["var(--blue)", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F"];
  const SVG = new DOMParser().parseFromString("<svg></svg>", "text/html").querySelector("svg").namespaceURI;
  const EDGE = { left: 62, right: 14, top: 10, bottom: 44 };

  const element = (name, attributes = {}, text = "") => {
    const made = document.createElement(name);
    Object.assign(made, attributes);
    made.textContent = text;
    return made;
  };
  const shape = (name, attributes, parent, text = "") => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    parent.append(made);
    return made;
  };
  const digits = (x, n = 3) => (x === 0 ? "0" : Number(x.toPrecision(n)).toLocaleString("en", { maximumSignificantDigits: n }));
  const bytes = (x) => {
    const unit = x >= 1e9 ? [1e9, "GB"] : x >= 1e6 ? [1e6, "MB"] : x >= 1e3 ? [1e3, "kB"] : [1, "B"];
    return digits(x / unit[0]) + "\u00a0" + unit[1];
  };
  const plain = (x) => digits(x, 4);
  const percent = (x) => digits(100 * x, 4) + "%";
  const AXES = {
    "bytes, both directions": [(run, i) => run.up[i] + run.down[i], bytes],
    "bytes up": [(run, i) => run.up[i], bytes],
    "bytes down": [(run, i) => run.down[i], bytes],
    "rounds": [(run, i) => run.round[i], plain],
    "seconds": [(run, i) => run.seconds[i], plain],
  };

  // One line for each method: means over the seeds of rounds that all of them evaluated, and the least and greatest.
  // Seeds without a common round have a line each.
  function lines(data, value, along) {
    return data.methods.flatMap((method, number) => {
      const runs = data.runs.filter((run) => run.method === method && run.values[value].some((x) => x !== null));
      const together = { method, number, seeds: runs.length, points: means(runs, value, along) };
      if (together.points.length || runs.length < 2) return [together];
      return runs.map((run) => ({ method, number, seeds: 1, points: means([run], value, along) }));
    });
  }
  function means(runs, value, along) {
    const at = runs.map((run) => new Map(run.round.map((round, i) => [round, i])));
    const known = (round) => runs.every((run, k) => at[k].has(round) && run.values[value][at[k].get(round)] !== null);
    const rounds = runs.length ? runs[0].round.filter(known) : [];
    const mean = (numbers) => numbers.reduce((sum, x) => sum + x / numbers.length, 0); // no sum beyond the floats
    return rounds.map((round) => {
      const values = runs.map((run, k) => run.values[value][at[k].get(round)]);
      const x = mean(runs.map((run, k) => along(run, at[k].get(round))));
      return { round, x, y: mean(values), low: Math.min(...values), high: Math.max(...values) };
    });
  }

  // Round numbers between two ends: about `count` of them, or 1, 2 and 5 of every decade.
  function ticks(low, high, log, count) {
    const found = [];
    if (log) {
      const decades = Math.log10(high / low);
      const kept = decades > 2.5 || (decades > 1.2 && count < 6) ? [1] : decades > 0.7 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
      for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++)
        for (const k of kept) found.push(k * 10 ** e);
    } else {
      const rough = high / count - low / count, power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map((k) => k * power).find((size) => size >= rough) || 10 * power;
      const first = Math.ceil(low / step); // of values that differ by their last bits, first + 1 may be first
      for (let k = 0; k <= 2 * count && (first + k) * step <= high; k++) found.push((first + k) * step);
    }
    return found.filter((x) => x >= low * (1 - 1e-12) && x <= high * (1 + 1e-12));
  }

  function scale(low, high, start, stop, log) {
    const f = log ? Math.log : (x) => x / 4; // no difference beyond the floats
    const span = f(high) - f(low) || 1;
    return (x) => start + ((f(x) - f(low)) / span) * (stop - start);
  }

  function save(name, rows) {
    const cell = (x) => (/[",\n]/.test(String(x)) ? `"${String(x).replaceAll('"', '""')}"` : String(x));
    const text = rows.map((row) => row.map(cell).join(",")).join("\n") + "\n";
    const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function chart(figure) {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const hidden = new Set();
    const options = (names, label) => {
      const made = element("select", { ariaLabel: label });
      for (const name of names) made.append(element("option", { value: name }, name));
      made.onchange = render;
      return made;
    };
    const value = options(data.values, "value"), along = options(Object.keys(AXES), "against");
    const log = element("input", { type: "checkbox", checked: true, onchange: render });
    const logLabel = element("label");
    logLabel.append(log, " log scale");
    const csv = element("button", { type: "button" }, "CSV");
    const controls = element("div", { className: "controls" });
    controls.append(value, element("span", {}, "against"), along, logLabel, csv);
    const legend = element("div", { className: "legend" });
    const area = element("div", { className: "area" });
    const tip = element("div", { className: "tip", hidden: true });
    figure.prepend(controls, legend, area);

    data.methods.forEach((method, number) => {
      const button = element("button", { type: "button", ariaPressed: "true", title: "hide or show" });
      const dot = element("span", { className: "dot" });
      dot.style.background = COLOURS[number % COLOURS.length];
      button.append(dot, element("span", {}, method));
      button.onclick = () => {
        if (!hidden.delete(method)) hidden.add(method);
        button.ariaPressed = String(!hidden.has(method));
        render();
      };
      if (data.methods.length > 1) legend.append(button);
    });
    csv.onclick = () => {
      const head = ["method", "seed", "round", "bytes up", "bytes down", "seconds", ...data.values];
      const rows = data.runs.flatMap((run) => run.round.map((round, i) => [
        run.method, run.seed, round, run.up[i], run.down[i], run.seconds[i],
        ...data.values.map((name) => (run.values[name] && run.values[name][i] !== null ? run.values[name][i] : "")),
      ]));
      save("rounds.csv", [head, ...rows]);
    };

    function render() {
      const [place, showX] = AXES[along.value];
      const showY = data.percent.includes(value.value) ? percent : plain;
      const all = lines(data, value.value, place).filter((line) => !hidden.has(line.method) && line.points.length);
      const points = all.flatMap((line) => line.points);
      const width = Math.max(280, figure.clientWidth), height = Math.round(Math.min(430, Math.max(260, width * 0.55)));
      area.replaceChildren();
      tip.hidden = true;
      const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img" }, area);
      svg.setAttribute("aria-label", `${value.value} against ${along.value}`);
      area.append(tip);
      if (!points.length) {
        shape("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, svg, "nothing to show");
        return;
      }
      const xs = points.map((p) => p.x), positive = xs.filter((x) => x > 0), logarithmic = log.checked && positive.length > 0;
      const seen = logarithmic ? positive : xs;
      const x = [Math.min(...seen), Math.max(...seen)];
      const y = [Math.min(...points.map((p) => p.low)), Math.max(...points.map((p) => p.high))];
      if (x[0] === x[1]) x.splice(0, 2, x[0] * 0.9 - (x[0] ? 0 : 1), x[0] * 1.1 + (x[0] ? 0 : 1));
      const room = y[1] * 0.04 - y[0] * 0.04 || Math.abs(y[0]) * 0.05 || 1;
      y[0] = Math.max(-Number.MAX_VALUE, y[0] - room);
      y[1] = Math.min(Number.MAX_VALUE, y[1] + room);
      const toX = scale(x[0], x[1], EDGE.left, width - EDGE.right, logarithmic);
      const toY = scale(y[0], y[1], height - EDGE.bottom, EDGE.top, false);
      for (const at of ticks(y[0], y[1], false, 6)) {
        shape("line", { x1: EDGE.left, x2: width - EDGE.right, y1: toY(at), y2: toY(at), class: "grid" }, svg);
        shape("text", { x: EDGE.left - 8, y: toY(at) + 4, "text-anchor": "end" }, svg, showY(at));
      }
      let taken = 0; // pixels that have a figure; one that would stand over it is left out
      for (const at of ticks(x[0], x[1], logarithmic, width / 90)) {
        shape("line", { x1: toX(at), x2: toX(at), y1: EDGE.top, y2: height - EDGE.bottom, class: "grid" }, svg);
        const text = shape("text", { x: toX(at), y: height - EDGE.bottom + 18, "text-anchor": "middle" }, svg, showX(at));
        const half = text.getComputedTextLength() / 2;
        if (toX(at) - half < taken) text.remove();
        else taken = toX(at) + half + 8;
      }
      shape("text", { x: width - EDGE.right, y: height - 6, "text-anchor": "end", class: "name" }, svg,
        along.value + (logarithmic ? " (log scale)" : ""));
      const marks = [];
      for (const { method, number, seeds, points: own } of all) {
        const colour = COLOURS[number % COLOURS.length];
        const there = own.filter((p) => !logarithmic || p.x > 0);
        const path = (key) => there.map((p) => `${toX(p.x).toFixed(1)},${toY(p[key]).toFixed(1)}`);
        if (seeds > 1)
          shape("polygon", { points: [...path("high"), ...path("low").reverse()].join(" "), fill: colour, opacity: 0.18 }, svg);
        const dashes = number < COLOURS.length ? "none" : "7 4";
        shape("polyline", { points: path("y").join(" "), fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dashes }, svg);
        const last = there[there.length - 1];
        if (last) shape("circle", { cx: toX(last.x), cy: toY(last.y), r: 4, fill: colour }, svg);
        for (const p of there) marks.push({ ...p, method, seeds, colour });
      }
      const ring = shape("circle", { r: 6, fill: "none", "stroke-width": 2, visibility: "hidden" }, svg);
      svg.onpointermove = (event) => {
        const box = svg.getBoundingClientRect(), px = event.clientX - box.left, py = event.clientY - box.top;
        const far = (p) => Math.hypot(toX(p.x) - px, toY(p.y) - py);
        const near = marks.reduce((best, p) => (far(p) < far(best) ? p : best), marks[0]);
        for (const [key, to] of Object.entries({ cx: toX(near.x), cy: toY(near.y), stroke: near.colour, visibility: "visible" }))
          ring.setAttribute(key, to);
        const band = near.seeds > 1 ? ` (${showY(near.low)} to ${showY(near.high)}, ${near.seeds} seeds)` : "";
        tip.replaceChildren(
          element("b", {}, near.method), element("div", {}, `${value.value} ${showY(near.y)}${band}`),
          element("div", {}, `round ${near.round}` + (along.value === "rounds" ? "" : `, ${showX(near.x)} ${along.value.replace("bytes, ", "")}`)));
        tip.hidden = false;
        tip.style.left = Math.max(0, Math.min(width - tip.offsetWidth, toX(near.x) - tip.offsetWidth / 2)) + "px";
        const above = toY(near.y) - tip.offsetHeight - 14;
        tip.style.top = (above < 0 ? toY(near.y) + 14 : above) + "px";
      };
      svg.onpointerleave = () => {
        tip.hidden = true;
        ring.setAttribute("visibility", "hidden");
      };
    }
    new ResizeObserver(() => requestAnimationFrame(render)).observe(figure);
    render();
  }

  // The first number of a cell; text without one comes last.
  const number = (cell) => {
    const found = cell.textContent.replaceAll(",", "").match(/-?\d+(\.\d+)?(e[+-]?\d+)?/);
    return found ? Number(found[0]) : NaN;
  };
  function sortable(table) {
    const head = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    head.forEach((cell, column) => {
      const sort = () => {
        const up = cell.ariaSort !== "ascending";
        const order = (a, b) => {
          const [p, q] = [a, b].map((row) => number(row.cells[column]));
          if (column === 0) return (up ? 1 : -1) * a.cells[0].textContent.localeCompare(b.cells[0].textContent);
          return Number.isNaN(p) || Number.isNaN(q) ? Number.isNaN(p) - Number.isNaN(q) : up ? p - q : q - p;
        };
        for (const other of head) other.ariaSort = "none";
        cell.ariaSort = up ? "ascending" : "descending";
        body.append(...[...body.rows].sort(order));
      };
      cell.tabIndex = 0;
      cell.onclick = sort;
      cell.onkeydown = (event) => event.key === "Enter" && sort();
    });
    const csv = element("button", { type: "button" }, "CSV");
    csv.onclick = () => save("table.csv", [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent)));
    table.parentElement.after(csv);
  }
  document.querySelectorAll("figure.chart").forEach(chart);
  document.querySelectorAll("table.sortable").forEach(sortable);
})();
