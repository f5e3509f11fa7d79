// Curves, drawn as wide as there is room; pointer, finger or arrow keys read their values.

const MARKS = {
  diamond: "M0-5.5L5.5 0L0 5.5L-5.5 0Z", circle: "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z",
  square: "M-4-4H4V4H-4Z",
};

function roundSteps(low, high, wanted) {
  const rough = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(factor => factor * power).find(size => size >= rough * (1 - 1e-9));
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

function decades(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const factor of [1, 2, 5]) {
      const tick = Number((factor * 10 ** power).toPrecision(3));
      if (tick >= low * 0.999 && tick <= high * 1.001) ticks.push(tick);
    }
  }
  const whole = ticks.filter(tick => /^[1]|^0\.0*1$/.test(String(tick)));
  return ticks.length > 8 && whole.length > 1 ? whole : ticks;
}

// As many digits as a tick has; where one of them is very small or large, all are written with exponents.
function tickTexts(ticks, log) {
  const far = value => value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6);
  const exponents = !log && ticks.some(far);
  return ticks.map(value => value !== 0 && (exponents || far(value))
    ? value.toExponential().replace("-", "−").replace("+", "")
    : value.toLocaleString("en-US", { maximumFractionDigits: 6 }));
}

// series: [{name, points: [[x, y], …], look: class, mark: name of MARKS or nothing, thin}]
// options: {label, unit, x, log, zero, height, bounds: [[y, text]], events: [[x, text]], categories: [text], group: []}
function chart(host, series, options) {
  series = series.filter(one => one.points.length);
  if (!series.length) return { redraw() {} };
  const group = options.group || [];
  const xs = [...new Set(series.flatMap(one => one.points.map(point => point[0])))].sort((a, b) => a - b);
  const readout = el("p", { class: "readout", "aria-hidden": "true" });
  const slider = el("div", {
    class: "slider", role: "slider", tabindex: "0", "aria-label": `${options.label}, by ${options.x}`,
    "aria-valuemin": 0, "aria-valuemax": Math.max(0, xs.length - 1), "aria-valuenow": xs.length - 1,
  });
  const cross = svg("g", { visibility: "hidden" });
  let place, width = 0, at = xs.length - 1, pointed = null;
  host.replaceChildren(slider, readout);

  function valuesAt(x) {
    return series.map(one => {
      let best = one.points[0];
      for (const point of one.points) if (Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
      return { one, point: best };
    });
  }

  function words(x, values) {
    const name = options.categories ? options.categories[x] : number(x);
    const parts = values.map(({ one, point }) => {
      const elsewhere = point[0] === x || options.categories || one.quiet ? "" : ` (at ${number(point[0])})`;
      return `${one.name} ${figure(point[1])}${elsewhere}`;
    });
    return `${options.x} ${name}: ${parts.join(", ")}`;
  }

  function point(x) {
    pointed = x;
    const values = valuesAt(x), text = words(x, values);
    readout.replaceChildren(text);
    slider.setAttribute("aria-valuetext", text);
    if (!place) return;
    const dots = values.map(({ one, point: [px, py] }) =>
      svg("circle", { class: `dot ${one.look}`, cx: place.x(px), cy: place.y(py), r: 4 }));
    cross.replaceChildren(svg("line", { class: "cross", x1: place.x(x), x2: place.x(x), y1: place.top, y2: place.bottom }), ...dots);
    cross.setAttribute("visibility", "visible");
  }

  function unpoint() {
    pointed = null;
    cross.setAttribute("visibility", "hidden");
    readout.replaceChildren();
  }

  const self = { point, unpoint };
  group.push(self);

  function move(index) {
    at = Math.min(xs.length - 1, Math.max(0, index));
    slider.setAttribute("aria-valuenow", at);
    for (const other of group) other.point(xs[at]);
  }

  function draw() {
    width = host.clientWidth;
    if (!width) return;
    const height = options.height, ys = series.flatMap(one => one.points.map(p => p[1])).concat((options.bounds || []).map(b => b[0]));
    let low = Math.min(...ys), high = Math.max(...ys);
    const log = options.log && low > 0;
    if (!log && options.zero) low = Math.min(0, low);
    if (low === high) { low -= Math.abs(low) / 10 || 1; high += Math.abs(high) / 10 || 1; }
    const spare = (high - low) * 0.05;
    if (log) { low /= 1.08; high *= 1.08; } else { low -= options.zero && low === 0 ? 0 : spare; high += spare; }
    const ticks = log ? decades(low, high) : roundSteps(low, high, height > 200 ? 5 : 3);
    const labels = tickTexts(ticks, log);
    const left = Math.max(28, 8 + 6.6 * Math.max(...labels.map(text => text.length))), right = options.categories ? 24 : 12, top = 24, bottom = height - 34;
    const first = xs[0], last = xs[xs.length - 1], span = last - first || 1;
    const x = value => left + (width - left - right) * (xs.length === 1 ? 0.5 : (value - first) / span);
    const scaled = value => log ? (Math.log(value) - Math.log(low)) / (Math.log(high) - Math.log(low)) : (value - low) / (high - low);
    const y = value => bottom - (bottom - top) * scaled(value);
    place = { x, y, top, bottom };
    const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "presentation", "aria-hidden": "true", focusable: "false" });
    drawing.append(svg("text", { x: 0, y: 10 }, options.unit + (log ? ", logarithmic" : "")));
    ticks.forEach((tick, i) => drawing.append(
      svg("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
      svg("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, labels[i])));
    drawing.append(svg("line", { class: "frame", x1: left, x2: width - right, y1: bottom, y2: bottom }));
    for (const [value, text] of xTicks()) {
      drawing.append(
        svg("line", { class: "frame", x1: x(value), x2: x(value), y1: bottom, y2: bottom + 4 }),
        svg("text", { x: Math.min(x(value), width - right), y: bottom + 16, "text-anchor": "middle" }, text));
    }
    drawing.append(svg("text", { x: width - right, y: height - 3, "text-anchor": "end" }, options.x));
    for (const [value, text] of options.events || []) {
      drawing.append(svg("line", { class: "event", x1: x(value), x2: x(value), y1: top, y2: bottom }, svg("title", {}, text)));
    }
    for (const [value, text] of options.bounds || []) {
      drawing.append(svg("line", { class: "bound", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    }
    for (const one of series) {
      const path = one.points.map(([px, py], i) => `${i ? "L" : "M"}${x(px).toFixed(1)} ${y(py).toFixed(1)}`).join("");
      if (one.points.length > 1) drawing.append(svg("path", { class: `curve ${one.thin ? "thin " : ""}${one.look}`, d: path }));
      if (one.mark && one.points.length <= 60 || one.points.length === 1) {
        for (const [px, py] of one.points) {
          drawing.append(svg("path", { class: `dot ${one.look}`, d: MARKS[one.mark || "circle"], transform: `translate(${x(px).toFixed(1)} ${y(py).toFixed(1)})` }));
        }
      }
    }
    for (const [value, text] of options.bounds || []) {
      drawing.append(svg("text", { class: "over", x: width - right, y: y(value) - 5, "text-anchor": "end" }, text));
    }
    drawing.append(cross);
    cross.setAttribute("visibility", "hidden");
    slider.replaceChildren(drawing);
    slider.setAttribute("aria-valuetext", words(xs[at], valuesAt(xs[at])));
    if (pointed !== null) point(pointed);

    function xTicks() {
      if (options.categories) {
        const every = Math.ceil(options.categories.length * 46 / (width - left));
        return options.categories.map((text, i) => [i, text]).filter((_, i) => i % every === 0);
      }
      if (xs.length === 1) return [[first, number(first)]];
      return roundSteps(first, last, Math.max(2, Math.min(8, width / 90)))
        .filter(Number.isInteger).map(tick => [tick, number(tick)]);
    }
  }

  slider.addEventListener("pointermove", event => {
    if (!place) return;
    const aim = event.clientX - slider.getBoundingClientRect().left;
    let best = 0;
    xs.forEach((value, i) => { if (Math.abs(place.x(value) - aim) < Math.abs(place.x(xs[best]) - aim)) best = i; });
    move(best);
  });
  slider.addEventListener("pointerleave", () => group.forEach(other => other.unpoint()));
  slider.addEventListener("focus", () => { if (slider.matches(":focus-visible")) move(at); });
  slider.addEventListener("blur", () => group.forEach(other => other.unpoint()));
  slider.addEventListener("keydown", event => {
    const far = Math.max(1, Math.round(xs.length / 10));
    const to = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, PageDown: at - far, PageUp: at + far, Home: 0, End: xs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    move(to);
  });
  draw();
  new ResizeObserver(() => { if (host.clientWidth !== width) draw(); }).observe(host);
  return { redraw(changes) { Object.assign(options, changes); draw(); } };
}

function legend(series) {
  return el("ul", { class: "legend", "aria-hidden": "true" }, series.filter(one => one.points.length).map(one => {
    const sample = svg("svg", { viewBox: "0 0 28 12" }, svg("path", { class: `curve ${one.thin ? "thin " : ""}${one.look}`, d: "M0 6H28" }));
    if (one.mark) sample.append(svg("path", { class: `dot ${one.look}`, d: MARKS[one.mark], transform: "translate(14 6)" }));
    return el("li", {}, sample, one.title || one.name);
  }));
}
