"use strict";
// The exported network in plain JavaScript: `makeModel(window.MODEL)` predicts in the browser.

function makeModel(exported) {
  const array = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const { numeric, vocabularies, n_bins, z_clip } = exported;
  const encoder = Object.fromEntries(Object.entries(exported.encoder).map(([name, text]) => [name, array(text)]));
  const embeddings = exported.embeddings.map(array);
  const layers = exported.layers.map(({ weight, bias }) => ({ weight: array(weight), bias: array(bias) }));
  const f = numeric.length;

  // Rank-Gauss transform, z-score and missing indicator of each number, as in the Python encoder.
  function encode(values, x) {
    for (let i = 0; i < f; i++) {
      const value = values[i];
      const missing = value === null || Number.isNaN(value);
      const distance = missing ? 0 : (value - encoder.median[i]) * encoder.inverse_iqr[i];
      const position = (distance / (1 + Math.abs(distance)) + 1) * (n_bins / 2);
      const bin = i * (n_bins + 1) + Math.floor(position);
      x[i] = missing ? 0 : encoder.bin_intercept[bin] + encoder.bin_slope[bin] * position;
      x[f + i] = Math.min(Math.max(distance * encoder.iqr_over_std[i], -z_clip), z_clip);
      x[2 * f + i] = missing ? 1 : 0;
    }
  }

  function linear({ weight, bias }, x) {
    const y = new Float64Array(bias.length);
    for (let j = 0; j < y.length; j++) {
      let sum = bias[j];
      for (let i = 0; i < x.length; i++) sum += weight[j * x.length + i] * x[i];
      y[j] = sum;
    }
    return y;
  }

  // The probability of each output head, from numbers (null: missing) and categories.
  function members(values, categories) {
    const size = exported.embedding;
    let x = new Float64Array(3 * f + size * embeddings.length);
    encode(values, x);
    embeddings.forEach((table, c) => {
      const index = vocabularies[c].indexOf(categories[c]) + 1; // 0: unknown
      for (let k = 0; k < size; k++) x[3 * f + c * size + k] = table[index * size + k];
    });
    layers.forEach((layer, n) => {
      x = linear(layer, x);
      if (n < layers.length - 1) x = x.map((v) => Math.max(v, 0));
    });
    return Array.from(x, (v) => 1 / (1 + Math.exp(-v)));
  }

  return {
    predict(values, categories) {
      const each = members(values, categories);
      return each.reduce((sum, p) => sum + p, 0) / each.length;
    },
  };
}

// What the sliders of the static site ask instead of POST /what-if.
if (window.MODEL) {
  const model = makeModel(window.MODEL);
  window.localModel = (id, changes) => {
    const [values, categories] = window.INPUTS[id];
    const changed = window.MODEL.numeric.map((name, i) => changes[name] ?? values[i]);
    const probability = model.predict(changed, categories);
    const decision = probability >= window.MODEL.threshold;
    return {
      probability, decision,
      decision_text: window.MODEL.decision_texts[Number(decision)],
      model_version: window.MODEL.version,
    };
  };
}

// The Ask page of the static site: the same sliders for another recorded instance.
function setUpRecorded(select) {
  const box = document.getElementById("sliders");
  select.addEventListener("change", () => {
    const [values] = window.INPUTS[select.value];
    const { page, changes } = window.RECORDED[select.value];
    document.getElementById("recorded-page").href = page;
    box.dataset.prediction = select.value;
    box.querySelectorAll("[data-changes]").forEach((button, i) => { button.dataset.changes = changes[i]; });
    box.querySelectorAll("input[type=range]").forEach((input) => {
      const name = Object.keys(JSON.parse(input.dataset.features))[0];
      input.dataset.was = values[window.MODEL.numeric.indexOf(name)] ?? "";
    });
    box.querySelector("[data-reset]").click();
  });
}

if (document.getElementById("recorded")) setUpRecorded(document.getElementById("recorded"));
