// A run's page: its curves and its answers.

function trainingCurves(curves) {
  const group = [];
  const events = curves.resumes.map(step => [step, `resumed from step ${number(step)}`]);
  const loss = [
    { name: "train", title: "train, each step", points: curves.loss, look: curves.smoothed.length ? "raw" : "train", thin: curves.smoothed.length > 0, quiet: true },
    { name: "smoothed", title: `train, mean over ${curves.neighbours} steps`, points: curves.smoothed, look: "train", quiet: true },
    { name: "val", title: "val", points: curves.val, look: "val", mark: "diamond" },
  ];
  const host = byId("loss-curve");
  if (host) {
    const values = loss.flatMap(one => one.points.map(point => point[1]));
    const log = byId("loss-log");
    log.checked = Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) > 30;
    byId("loss-legend").replaceChildren(legend(loss));
    const drawn = chart(host, loss, { label: "Loss", unit: "nats a token", x: "step", height: 320, log: log.checked, events, group });
    log.addEventListener("change", () => drawn.redraw({ log: log.checked }));
  }
  const steepest = Math.max(0, ...curves.grad_norm.map(point => point[1]));
  const clipped = steepest > 0.4 * curves.max_grad_norm ? [[curves.max_grad_norm, "clipped beyond"]] : [];
  const small = [
    ["rate-curve", "Learning rate", "learning rate", curves.learning_rate, []],
    ["norm-curve", "Gradient norm", "gradient norm", curves.grad_norm, clipped],
    ["speed-curve", "Tokens a second", "tokens/s", curves.tokens_per_second, []],
    ["vram-curve", "VRAM", "GiB", curves.vram_gib, [[curves.vram_allowed, "allowed"]]],
  ];
  for (const [id, label, unit, points, bounds] of small) {
    const place = byId(id);
    if (place) chart(place, [{ name: unit, points, look: "train", quiet: true }], { label, unit, x: "step", height: 170, zero: true, events, bounds: bounds.filter(b => b[0] !== null && b[0] !== undefined), group });
  }
}

function positionCurve(positions) {
  const host = byId("position-curve");
  if (!host) return;
  const series = [
    { name: "base", points: positions.base, look: "of-base", mark: "square" },
    { name: "adapter", points: positions.adapter, look: "of-adapter", mark: "circle" },
  ];
  byId("position-legend").replaceChildren(legend(series));
  chart(host, series, { label: "Loss by place in the answer", unit: "nats a token", x: "token of the answer", height: 240, zero: true, categories: positions.places });
}

trainingCurves(data.curves);
if (data.positions) positionCurve(data.positions);
if (data.answers) answersBrowser(data.answers);
performance.mark("rows-shown");
