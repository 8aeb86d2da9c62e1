// The page "Try the losses": controls, two charts, a row of numbers and the Python call. The mathematics are in losses.js.

(() => {
  "use strict";

  const LOSSES = {
    binary_cross_entropy_with_logits: { of: losses.binaryCrossEntropyWithLogits, options: ["posWeight", "labelSmoothing"] },
    sigmoid_focal_loss: { of: losses.sigmoidFocalLoss, options: ["gamma", "alpha", "labelSmoothing"] },
    asymmetric_loss: { of: losses.asymmetricLoss, options: ["gammaPos", "gammaNeg", "margin", "labelSmoothing"] },
  };
  const PYTHON = { posWeight: "pos_weight", labelSmoothing: "label_smoothing", gammaPos: "gamma_pos", gammaNeg: "gamma_neg" };
  const RANGE = [-8, 8]; // of logits
  const VIEW = { width: 440, height: 300, left: 52, right: 12, top: 12, bottom: 46 };
  const SVG = "http://www.w3.org/2000/svg";

  const page = document.getElementById("playground");
  const field = (name) => page.querySelector(`[name="${name}"]`);

  const draw = (parent, name, attributes, text) => {
    const element = parent.appendChild(document.createElementNS(SVG, name));
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // Steps of 1, 2 or 5 times a power of ten, up to eight of them.
  const ticks = (low, high) => {
    const rough = (high - low) / 8;
    const ten = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((m) => m * ten).find((s) => s >= rough);
    const first = Math.ceil(low / step - 1e-9);
    const last = Math.floor(high / step + 1e-9);
    return Array.from({ length: last - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
  };

  const chart = (svg, title, curves, cursor) => {
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${VIEW.width} ${VIEW.height}`);
    const values = curves.flatMap((curve) => curve.points.map(([, value]) => value));
    let [low, high] = [Math.min(0, ...values), Math.max(0.1, ...values)];
    [low, high] = [low - 0.04 * (high - low), high + 0.04 * (high - low)];
    const inner = { width: VIEW.width - VIEW.left - VIEW.right, height: VIEW.height - VIEW.top - VIEW.bottom };
    const across = (x) => VIEW.left + ((x - RANGE[0]) / (RANGE[1] - RANGE[0])) * inner.width;
    const down = (value) => VIEW.top + ((high - value) / (high - low)) * inner.height;

    for (const value of ticks(low, high)) {
      const kind = value === 0 ? "axis" : "grid";
      draw(svg, "line", { class: kind, x1: VIEW.left, x2: VIEW.width - VIEW.right, y1: down(value), y2: down(value) });
      draw(svg, "text", { x: VIEW.left - 6, y: down(value) + 4, "text-anchor": "end" }, value);
    }
    for (const x of ticks(...RANGE)) {
      draw(svg, "line", { class: "grid", x1: across(x), x2: across(x), y1: VIEW.top, y2: VIEW.height - VIEW.bottom });
      draw(svg, "text", { x: across(x), y: VIEW.height - VIEW.bottom + 17, "text-anchor": "middle" }, x);
    }
    draw(svg, "text", { x: across(0), y: VIEW.height - 8, "text-anchor": "middle" }, "logit x");
    const middle = VIEW.top + inner.height / 2;
    draw(svg, "text", { x: 13, y: middle, "text-anchor": "middle", transform: `rotate(-90 13 ${middle})` }, title);
    draw(svg, "line", {
      class: "cursor", x1: across(cursor), x2: across(cursor), y1: VIEW.top, y2: VIEW.height - VIEW.bottom,
    });
    for (const { kind, points } of curves) {
      const path = points.map(([x, value], i) => `${i ? "L" : "M"}${across(x).toFixed(2)} ${down(value).toFixed(2)}`);
      draw(svg, "path", { class: kind, d: path.join("") });
    }
  };

  const redraw = () => {
    const name = field("loss").value;
    const { of, options } = LOSSES[name];
    const parameters = {};
    for (const row of page.querySelectorAll("[data-option]")) {
      const option = row.dataset.option;
      const input = field(option);
      const applies = options.includes(option);
      row.hidden = !applies;
      // The slider of pos_weight counts powers of ten, for a weight of 1/5 is as far from 1 as one of 5.
      const value = option === "posWeight" ? Number((10 ** Number(input.value)).toPrecision(3)) : Number(input.value);
      const none = option === "alpha" && value < 0; // the first stop of its slider
      const shown = none ? "None" : String(value);
      row.querySelector("span").textContent = shown;
      input.setAttribute("aria-valuetext", shown); // what a screen reader says, in the place of the slider's own number
      if (applies) parameters[option] = none ? null : value;
    }

    const cursor = Number(field("logit").value);
    const grid = Array.from({ length: 321 }, (_, i) => RANGE[0] + (i * (RANGE[1] - RANGE[0])) / 320);
    const curve = (quantity, f, y) => grid.map((x) => [x, f(x, y)[quantity]]);
    const chosen = (x, y) => of(x, y, parameters);
    const plain = (x, y) => losses.binaryCrossEntropyWithLogits(x, y);
    for (const quantity of ["loss", "gradient"]) {
      chart(page.querySelector(`svg.${quantity}`), quantity === "loss" ? "loss" : "gradient by x", [
        { kind: "plain", points: curve(quantity, plain, 1) },
        { kind: "plain", points: curve(quantity, plain, 0) },
        { kind: "label-1", points: curve(quantity, chosen, 1) },
        { kind: "label-0", points: curve(quantity, chosen, 0) },
      ], cursor);
    }

    const digits = (value) => (Math.abs(value) >= 0.001 || value === 0 ? value.toFixed(4) : value.toExponential(2));
    page.querySelector("[data-output=logit]").textContent = cursor.toFixed(1);
    page.querySelector("[data-output=p]").textContent = digits(losses.sigmoid(cursor));
    for (const y of [1, 0]) {
      const { loss, gradient } = chosen(cursor, y);
      page.querySelector(`[data-output=loss-${y}]`).textContent = digits(loss);
      page.querySelector(`[data-output=gradient-${y}]`).textContent = digits(gradient);
    }
    const written = Object.entries(parameters).map(([k, v]) => `${PYTHON[k] || k}=${v === null ? "None" : v}`);
    page.querySelector("[data-output=call]").textContent = `${name}(logits, labels, ${written.join(", ")})`;
  };

  page.addEventListener("input", redraw);
  page.addEventListener("reset", () => setTimeout(redraw)); // A form resets its fields after this event.
  redraw();
})();
