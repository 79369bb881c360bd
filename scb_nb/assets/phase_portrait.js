// The plane of training: choose the task, the ratio of step sizes and the start, and see where the flow goes, and when.
function start(stage) {
  const LOW = -1.6, HIGH = 2.6, SIZE = 400, PAD = 44; // the window of the portrait; the size of both pictures, in their own units
  const { choices } = data;
  const setting = { ...data.opening }; // seq_len, K_P, K_Q, ratio
  let [startV, startA] = data.start;

  // The flow, with rate 1 for V and the ratio as the rate for A.
  const velocity = (x, y) => {
    const { seq_len, K_P, K_Q, ratio } = setting;
    const unexplained = 1 - x * y;
    return [K_Q * y * unexplained + (1 - x) / seq_len, ratio * K_P * x * unexplained];
  };

  // As theory.follow_flow: a Rosenbrock method of order 2 with steps that adapt, since the creep is T times slower than the rest.
  function follow(until, tolerance = 1e-6) {
    const { seq_len, K_P, K_Q, ratio } = setting;
    const d = 1 / (2 + Math.SQRT2), e = 6 + Math.SQRT2;
    let time = 0, step = 1e-3, x = startV, y = startA, now = velocity(x, y);
    const points = [[time, x, y]];
    while (time < until) {
      step = Math.min(step, until - time);
      const a = 1 + step * d * (K_Q * y * y + 1 / seq_len), b = -step * d * K_Q * (1 - 2 * x * y);
      const c = -step * d * ratio * K_P * (1 - 2 * x * y), g = 1 + step * d * ratio * K_P * x * x;
      const determinant = a * g - b * c;
      if (determinant <= 0) { step /= 2; continue; }
      const solve = (u, v) => [(g * u - b * v) / determinant, (a * v - c * u) / determinant];
      const k1 = solve(...now);
      const middle = velocity(x + (step / 2) * k1[0], y + (step / 2) * k1[1]);
      const k2 = solve(middle[0] - k1[0], middle[1] - k1[1]).map((value, i) => value + k1[i]);
      const there = [x + step * k2[0], y + step * k2[1]];
      const end = velocity(...there);
      const k3 = solve(...[0, 1].map((i) => end[i] - e * (k2[i] - middle[i]) - 2 * (k1[i] - now[i])));
      const error = Math.max(...[0, 1].map((i) => Math.abs((step / 6) * (k1[i] - 2 * k2[i] + k3[i])) /
        Math.max(Math.abs([x, y][i]), Math.abs(there[i]), 1 / seq_len)));
      if (error <= tolerance) {
        time = step === until - time ? until : time + step;
        [x, y] = there;
        now = end;
        points.push([time, x, y]);
      }
      step *= Math.min(4, Math.max(0.2, 0.8 * (tolerance / Math.max(error, 1e-30)) ** (1 / 3)));
    }
    return points;
  }

  // The first point at which a quantity is at least 0, interpolated; null if there is none.
  function first(points, quantity) {
    const after = points.findIndex((point) => quantity(point) >= 0);
    if (after <= 0) return after === 0 ? points[0] : null;
    const [before, beyond] = [points[after - 1], points[after]];
    const share = quantity(before) / (quantity(before) - quantity(beyond));
    return before.map((value, i) => value + share * (beyond[i] - value));
  }

  const distance = ([, x, y]) => Math.max(Math.abs(1 - x), Math.abs(1 - y));
  const loss = ([, x, y]) => (setting.K_Q * (1 - x * y) ** 2 + (1 - x) ** 2 / setting.seq_len) / (setting.K_Q + 1 / setting.seq_len);
  const brief = (time) => (time < 100 ? time.toFixed(1) : Number(time.toPrecision(3)).toLocaleString("en"));
  const place = (x, y) => `(${x.toFixed(2)}, ${y.toFixed(2)})`.replace(/-(?=0\.00\b)/g, "");

  // Controls

  const below = (letter, index) => [letter, element("sub", {}, index)];
  const labels = { seq_len: ["context length T"], K_P: [...below("K", "P"), ", signal in P"], K_Q: [...below("K", "Q"), ", signal in Q"], ratio: ["step size of A : of V"] };
  const written = { seq_len: (value) => value.toLocaleString("en"), ratio: (value) => (value < 1 ? `1 : ${Number((1 / value).toPrecision(3))}` : `${Number(value.toPrecision(3))} : 1`) };
  const controls = element("div", { className: "scb-controls" });
  for (const [name, values] of Object.entries(choices)) {
    controls.append(slider(name, labels[name], values, values.indexOf(setting[name]), written[name] ?? ((value) => value.toFixed(2)),
      (value) => { setting[name] = value; draw(); }).node);
  }

  // The portrait

  const across = (x) => PAD + ((x - LOW) / (HIGH - LOW)) * (SIZE - PAD - 8);
  const up = (y) => SIZE - across(y);
  const outline = (points) => points.map(([x, y]) => `${across(x).toFixed(1)},${up(y).toFixed(1)}`).join(" ");
  const axes = (titles, ...children) => shape("svg", { viewBox: `0 0 ${SIZE} ${SIZE}`, "aria-hidden": "true" }, ...children,
    shape("text", { x: (SIZE + PAD) / 2, y: SIZE - 6, "text-anchor": "middle" }, ...titles[0]),
    shape("text", { transform: `translate(14 ${(SIZE - PAD) / 2}) rotate(-90)`, "text-anchor": "middle" }, ...titles[1]));
  const alpha = (index, meaning) => ["α", shape("tspan", { dy: 4, "font-size": 11 }, index), shape("tspan", { dy: -4 }, meaning)];
  const branch = (sign) => outline(Array.from({ length: 60 }, (_, i) => sign * (1 / HIGH) * (HIGH * HIGH) ** (i / 59)).map((x) => [x, 1 / x])
    .filter(([x, y]) => Math.min(x, y) >= LOW && Math.max(x, y) <= HIGH));
  const ticks = [-1, 0, 1, 2].flatMap((value) => [
    shape("line", { class: "scb-grid", x1: across(value), x2: across(value), y1: up(LOW), y2: up(HIGH) }),
    shape("line", { class: "scb-grid", y1: up(value), y2: up(value), x1: across(LOW), x2: across(HIGH) }),
    shape("text", { x: across(value), y: up(LOW) + 17, "text-anchor": "middle" }, String(value).replace("-", "−")),
    shape("text", { x: across(LOW) - 5, y: up(value) + 5, "text-anchor": "end" }, String(value).replace("-", "−")),
  ]);
  const clip = `scb-window-${Math.random().toString(36).slice(2)}`;
  const field = shape("path", { class: "scb-field" });
  const path = shape("polyline", { class: "scb-path", "clip-path": `url(#${clip})` });
  const marks = shape("g");
  const portrait = axes([alpha("V", " (what follows what)"), alpha("A", " (where to look)")],
    shape("clipPath", { id: clip }, shape("rect", { x: across(LOW), y: up(HIGH), width: across(HIGH) - across(LOW), height: up(LOW) - up(HIGH) })),
    ...ticks, field, ...[1, -1].map((sign) => shape("polyline", { class: "scb-hyperbola", points: branch(sign) })), path,
    shape("path", { class: "scb-star", d: star(across(1), up(1), 13) }), marks);
  const handle = element("button", { type: "button", className: "scb-start" });
  const plane = element("div", { className: "scb-plane" }, portrait, handle);

  function star(x, y, radius) {
    const corner = (i) => [x + (i % 2 ? 0.45 : 1) * radius * Math.sin((i * Math.PI) / 5), y - (i % 2 ? 0.45 : 1) * radius * Math.cos((i * Math.PI) / 5)];
    return `M${Array.from({ length: 10 }, (_, i) => corner(i).map((value) => value.toFixed(1)).join(" ")).join("L")}Z`;
  }

  function move(x, y) {
    [startV, startA] = [x, y].map((value) => Math.min(2.5, Math.max(-1.5, Math.round(value * 50) / 50)));
    draw();
  }
  handle.onkeydown = (event) => {
    const shift = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!shift) return;
    event.preventDefault();
    move(startV + 0.1 * shift[0], startA + 0.1 * shift[1]);
  };
  handle.onpointerdown = (event) => { handle.setPointerCapture(event.pointerId); };
  handle.onpointermove = (event) => {
    if (!handle.hasPointerCapture(event.pointerId)) return;
    const box = portrait.getBoundingClientRect(), unit = ((HIGH - LOW) * SIZE) / (SIZE - PAD - 8);
    move(LOW + ((event.clientX - box.left) / box.width - PAD / SIZE) * unit, LOW + ((box.bottom - event.clientY) / box.height - PAD / SIZE) * unit);
  };

  // Streamlets of equal length, each followed for a little way along the direction of the flow, with a head.
  function arrows() {
    let drawn = "";
    for (let i = 0; i < 14; i++) {
      for (let j = 0; j < 14; j++) {
        let [x, y] = [i, j].map((index) => LOW + ((index + 0.5) / 14) * (HIGH - LOW));
        let direction = [0, 0];
        const points = [[x, y]];
        for (let k = 0; k < 6; k++) {
          const v = velocity(x, y), speed = Math.hypot(...v) || 1;
          direction = v.map((value) => value / speed);
          [x, y] = [x + 0.03 * direction[0], y + 0.03 * direction[1]];
          points.push([x, y]);
        }
        const head = [-1, 1].map((side) => [x - 0.06 * direction[0] - 0.04 * side * direction[1], y - 0.06 * direction[1] + 0.04 * side * direction[0]]);
        drawn += `M${outline(points).replaceAll(" ", "L")}M${outline([head[0], [x, y], head[1]]).replaceAll(" ", "L")}`;
      }
    }
    field.setAttribute("d", drawn);
  }

  // Distance and loss against time, both axes logarithmic

  const FIRST = 0.1, FLOOR = 1e-4, TOP = 4;
  const curve = (name) => shape("polyline", { class: name, "clip-path": `url(#${clip})` });
  const graph = { far: curve("scb-path"), loss: curve("scb-loss"), marks: shape("g"), scale: shape("g") };
  const chart = axes([["time"], []], graph.scale, graph.loss, graph.far, graph.marks);
  const level = (value) => 8 + (Math.log(TOP / Math.max(value, FLOOR / 100)) / Math.log(TOP / FLOOR)) * (SIZE - PAD - 8);
  const power = (exponent) => shape("tspan", {}, "10", shape("tspan", { dy: -5, "font-size": 11 }, String(exponent).replace("-", "−")));

  const symbol = (kind, x, y) => ({
    half: () => shape("circle", { class: "scb-mark", cx: x, cy: y, r: 5 }),
    landed: () => shape("rect", { class: "scb-mark", x: x - 5, y: y - 5, width: 10, height: 10 }),
    near: () => shape("path", { class: "scb-mark", d: `M${x} ${y - 7}L${x + 6} ${y + 5}L${x - 6} ${y + 5}Z` }),
  })[kind]();

  const key = (kind) => shape("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, symbol(kind, 7, 7));
  const legend = element("p", { className: "scb-legend" },
    element("span", {}, key("half"), " the product is one half"), element("span", {}, key("landed"), " landed: the product is within 0.01 of 1"),
    element("span", {}, key("near"), " both numbers are within 0.05 of 1"),
    element("span", {}, element("i", { className: "scb-solid" }), " distance from (1, 1): the larger of |1 − ", ...below("α", "V"), "| and |1 − ", ...below("α", "A"), "|"),
    element("span", {}, element("i", { className: "scb-dashed" }), " loss above the best possible, as a share of that at (0, 0)"));
  const summary = element("p", { "aria-live": "polite" });
  stage.append(controls, element("div", { className: "scb-pair" }, plane, element("div", {}, chart)), legend, summary,
    element("p", { className: "scb-hint" }, "Drag the round handle to another start, or focus it and use the arrow keys. The unit of time is one over the step size of V."));

  function draw() {
    const { seq_len, K_P, K_Q, ratio } = setting;
    const points = follow(20 * seq_len * (1 + K_Q / (ratio * K_P)) + 1000);
    const half = first(points, ([, x, y]) => x * y - 0.5);
    const landed = first(points, ([, x, y]) => 0.01 - Math.abs(1 - x * y));
    const near = first(points, (point) => 0.05 - distance(point));
    const milestones = Object.entries({ half, landed, near }).filter(([, point]) => point);

    arrows();
    path.setAttribute("points", outline(points.map(([, x, y]) => [x, y])));
    marks.replaceChildren(...milestones.filter(([, [, x, y]]) => Math.min(x, y) > LOW && Math.max(x, y) < HIGH).map(([kind, [, x, y]]) => symbol(kind, across(x), up(y))));
    handle.style.left = `${(100 * across(startV)) / SIZE}%`;
    handle.style.top = `${(100 * up(startA)) / SIZE}%`;
    handle.setAttribute("aria-label", `start at α_V = ${startV.toFixed(2)}, α_A = ${startA.toFixed(2)}; the arrow keys move it`);

    const last = points.findLast((point) => distance(point) > FLOOR)?.[0] ?? 1;
    const decades = Math.max(2, Math.ceil(Math.log10(last / FIRST)));
    const moment = (time) => PAD + (Math.log10(Math.max(time, FIRST) / FIRST) / decades) * (SIZE - PAD - 8);
    const line = (quantity) => points.filter(([time]) => moment(time) <= SIZE - 8)
      .map((point) => `${moment(point[0]).toFixed(1)},${level(quantity(point)).toFixed(1)}`).join(" ");
    graph.far.setAttribute("points", line(distance));
    graph.loss.setAttribute("points", line(loss));
    graph.marks.replaceChildren(...milestones.map(([kind, point]) => symbol(kind, moment(point[0]), level(distance(point)))));
    const scale = [];
    for (let exponent = -4; exponent <= 0; exponent++) {
      scale.push(shape("line", { class: "scb-grid", x1: PAD, x2: SIZE - 8, y1: level(10 ** exponent), y2: level(10 ** exponent) }),
        shape("text", { x: PAD - 3, y: level(10 ** exponent) + 6, "text-anchor": "end" }, power(exponent)));
    }
    for (let decade = 0; decade <= decades; decade++) {
      const x = moment(FIRST * 10 ** decade);
      scale.push(shape("line", { class: "scb-grid", x1: x, x2: x, y1: level(TOP), y2: level(FLOOR) }));
      if (decades < 7 || decade % 2 === 1) scale.push(shape("text", { x, y: level(FLOOR) + 18, "text-anchor": "middle" }, power(decade - 1)));
    }
    graph.scale.replaceChildren(...scale);

    summary.textContent = story(half, landed, near);
  }

  // In the words of explorables.phase_portrait.
  function story(half, landed, near) {
    const head = `From ${place(startV, startA)}`;
    if (!landed) return `${head} training has not landed within the time that is computed here.`;
    const rise = startV * startA < 0.5 && half && half[0] <= landed[0] ? ` the product reaches one half at t = ${brief(half[0])}, and` : "";
    const lands = `${head}${rise} training lands near ${place(landed[1], landed[2])} at t = ${brief(landed[0])}.`;
    if (landed[1] < 0) return `${lands} That is the wrong branch of the hyperbola: from there it never comes to (1, 1).`;
    if (near && near[0] <= landed[0]) return `${lands} There it is already within 0.05 of (1, 1).`;
    if (!near) return `${lands} Within the time that is computed here it does not come within 0.05 of (1, 1).`;
    return `${lands} Then it creeps: within 0.05 of (1, 1) at t = ${brief(near[0])}.`;
  }
  draw();
}
