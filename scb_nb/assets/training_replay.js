// Replay one run of training: pick a record, and see A beside Q, V beside P, and the errors until then and after.
function start(stage) {
  const WIDE = 400, HIGH = 190, LEFT = 46, RIGHT = 8, TOP = 8, BOTTOM = 44, FLOOR = 0.01; // the chart, in its own units
  const { P, Q, mu, letters, stages, frames } = data;
  let now = data.opening, timer = null;

  const positions = Q.map((_, t) => String(t + 1)), high = Q.length > 12 ? 0.6 : 1;
  const highest = (matrix) => Math.max(...matrix.flat());
  const [A, wantedA] = ["A, learned", "Q, true"].map((title) => heatMap(title, positions, letters, highest(Q), high));
  const [V, wantedV] = ["V, learned", "P, true"].map((title) => heatMap(title, letters, letters, highest(P)));
  wantedA.show(Q);
  wantedV.show(P);

  // The errors, as shares of those at the start, against samples; the second axis is logarithmic.

  const across = (samples) => LEFT + (samples / frames.at(-1).samples) * (WIDE - LEFT - RIGHT);
  const level = (share) => TOP + (Math.log(Math.max(share, FLOOR)) / Math.log(FLOOR)) * (HIGH - TOP - BOTTOM);
  const line = (name, style) => shape("polyline", { class: style, points: frames.map((frame) => `${across(frame.samples).toFixed(1)},${level(frame[name]).toFixed(1)}`).join(" ") });
  const grid = [1, 0.1, 0.01].flatMap((share) => [
    shape("line", { class: "scb-grid", x1: LEFT, x2: WIDE - RIGHT, y1: level(share), y2: level(share) }),
    shape("text", { x: LEFT - 6, y: level(share) + 5, "text-anchor": "end" }, String(share))]);
  let step = 10 ** Math.floor(Math.log10(frames.at(-1).samples));
  if (frames.at(-1).samples < 4 * step) step /= 2;
  for (let samples = 0; samples <= frames.at(-1).samples; samples += step) {
    grid.push(shape("text", { x: across(samples), y: HIGH - BOTTOM + 20, "text-anchor": "middle" }, samples.toLocaleString("en")));
  }
  const borders = frames.slice(1).flatMap((frame, i) => (frame.stage === frames[i].stage ? [] : [across(frames[i].samples)]));
  const cursor = shape("line", { class: "scb-cursor", y1: TOP, y2: HIGH - BOTTOM });
  const dots = [shape("circle", { class: "scb-mark", r: 5 }), shape("rect", { class: "scb-mark", width: 9, height: 9 })];
  const chart = shape("svg", { class: "scb-errors", viewBox: `0 0 ${WIDE} ${HIGH}`, "aria-hidden": "true" }, ...grid,
    ...borders.map((x) => shape("line", { class: "scb-border", x1: x, x2: x, y1: TOP, y2: HIGH - BOTTOM })),
    line("error_V", "scb-path"), line("error_A", "scb-loss"), cursor, ...dots,
    shape("text", { x: (WIDE + LEFT) / 2, y: HIGH - 6, "text-anchor": "middle" }, "samples"));
  const legend = element("p", { className: "scb-legend" },
    element("span", {}, element("i"), " distance of V from P"),
    element("span", {}, element("i", { className: "scb-dashed" }), " distance of A from Q"),
    element("span", {}, "both as shares of those at the start; dotted: where a stage ends"));

  // Controls

  const told = (i) => `${i + 1} of ${frames.length}, ${frames[i].samples.toLocaleString("en")} samples`;
  const scrub = slider("record", ["Record"], frames.map((_, i) => i), now, told, (i) => { stop(); now = i; draw(); });
  const controls = element("div", { className: "scb-controls" }, scrub.node);
  const play = element("button", { type: "button" }, "Play");
  const summary = element("p", { "aria-live": "polite" });

  function stop() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    summary.setAttribute("aria-live", "polite");
  }
  play.onclick = () => {
    if (timer) return stop();
    if (now === frames.length - 1) now = 0;
    play.textContent = "Stop";
    summary.setAttribute("aria-live", "off"); // not a sentence for every frame
    timer = setInterval(() => {
      if (!stage.isConnected) return clearInterval(timer);
      now += 1;
      draw();
      if (now === frames.length - 1) stop();
    }, 250);
  };
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) controls.append(element("div", {}, play));

  stage.append(controls, element("div", { className: "scb-matrices" }, A.node, wantedA.node, element("div", {}, V.node, wantedV.node)), chart, legend, summary);

  function draw() {
    const frame = frames[now];
    A.show(frame.A);
    V.show(frame.V);
    scrub.set(now);
    const x = across(frame.samples);
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    dots[0].setAttribute("cx", x);
    dots[0].setAttribute("cy", level(frame.error_V));
    dots[1].setAttribute("x", x - 4.5);
    dots[1].setAttribute("y", level(frame.error_A) - 4.5);
    // In the words of explorables.training_replay.
    summary.textContent = `After ${frame.samples.toLocaleString("en")} samples, ${stages[frame.stage]}: the distance of V from P is ${frame.error_V.toFixed(2)} of that at the start, ` +
      `that of A from Q ${frame.error_A.toFixed(2)}, and ${Math.round(100 * right(frame.A))}% of the attention is on the right positions.`;
  }

  function right(attention) {
    return attention.reduce((sum, row, t) => sum + row.reduce((part, value, k) => part + (Q[t][k] > 0 ? mu[k] * value : 0), 0), 0);
  }
  draw();
}
