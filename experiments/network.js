"use strict";
// The exported network in plain JavaScript: `makeModel(window.MODEL)` predicts in the browser.

function makeModel(exported) {
  const array = (text) => new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const { numeric, vocabularies, n_bins, z_clip } = exported;
  const encoder = Object.fromEntries(Object.entries(exported.encoder).map(([name, text]) => [name, array(text)]));
  const embeddings = exported.embeddings.map(array);
  const layer = ({ weight, bias }) => ({ weight: array(weight), bias: array(bias) });
  const layers = exported.layers.map(layer);
  const queries = exported.queries && layer(exported.queries);
  const sequences = exported.sequences.map(({ events, width, event, residual, no_event_key, no_event_value }) => ({
    events, width, event: layer(event), residual: layer(residual),
    none: { key: array(no_event_key), value: array(no_event_value) },
  }));
  const f = numeric.length;
  const tabular = f - sequences.reduce((sum, { events, width }) => sum + events * width, 0);

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

  const relu = (x) => x.map((v) => Math.max(v, 0));
  const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);

  // The context vector of a query: softmax attention to the events, with a slot for no event.
  function context(query, vectors, none) {
    const slots = [...vectors.map((v) => ({ key: v, value: v })), none];
    const scores = slots.map(({ key }) => dot(query, key) / Math.sqrt(query.length));
    const highest = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - highest));
    const total = weights.reduce((sum, w) => sum + w, 0);
    return query.map((_, k) => slots.reduce((sum, { value }, i) => sum + (weights[i] / total) * value[k], 0));
  }

  // The context vectors of all sequences, in the order of the queries, from the encoded numbers [3 f].
  function attend(row, x) {
    const size = exported.event_width;
    const asked = queries ? linear(queries, row) : [];
    const contexts = [];
    let start = tabular;
    sequences.forEach(({ events, width, event, residual, none }, s) => {
      const vectors = [];
      for (let e = 0; e < events; e++) {
        const first = start + e * width;
        if (x[2 * f + first]) continue; // absent: its first input is missing
        const inputs = [0, 1, 2].flatMap((t) => Array.from(x.subarray(t * f + first, t * f + first + width)));
        const vector = relu(linear(event, inputs));
        vectors.push(relu(linear(residual, vector)).map((v, i) => v + vector[i]));
      }
      for (let q = 0; q < exported.n_queries; q++) {
        const first = (s * exported.n_queries + q) * size;
        contexts.push(...context(asked.slice(first, first + size), vectors, none));
      }
      start += events * width;
    });
    return contexts;
  }

  // The probability of each output head, from numbers (null: missing) and categories.
  function members(values, categories) {
    const size = exported.embedding;
    const encoded = new Float64Array(3 * f);
    encode(values, encoded);
    const row = [0, 1, 2].flatMap((t) => Array.from(encoded.subarray(t * f, t * f + tabular)));
    embeddings.forEach((table, c) => {
      const index = vocabularies[c].indexOf(categories[c]) + 1; // 0: unknown
      for (let k = 0; k < size; k++) row.push(table[index * size + k]);
    });
    let x = [...row, ...attend(row, encoded)];
    layers.forEach((each, n) => {
      x = linear(each, x);
      if (n < layers.length - 1) x = relu(x);
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
