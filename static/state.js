// The whole state of the page, and its home: the address.

const VIEW = ['language', 'units', 'theme'];

export const state = {
  calculation_type: 'inference',
  source: 'bundled', // bundled, config or sizes
  fields: {}, // what the reader chose, by the name of the request field; a path for fields inside an object
  config: '', // the pasted config.json
  compare: [], // requests: { calculation_type, body }
  language: '',
  units: '',
  theme: '',
};

// What a first visit shows.
export const START = { model_name: 'Qwen3-8B', sequence_length: 8192, batch_size: 4, gpu: 'RTX-4090' };

// Without these, sizes are no model.
export const SIZES = ['model_size', 'hidden_size', 'num_hidden_layers', 'num_attention_heads'];

export function load() {
  const said = new URLSearchParams(location.hash.slice(1));
  state.calculation_type = said.get('calculation_type') === 'training' ? 'training' : 'inference';
  state.source = ['config', 'sizes'].includes(said.get('source')) ? said.get('source') : 'bundled';
  state.config = said.get('config') ?? '';
  state.fields = {};
  for (const [key, value] of said) if (key.startsWith('f.')) state.fields[key.slice(2)] = parsed(value);
  try {
    const saved = JSON.parse(said.get('compare') ?? '[]');
    state.compare = Array.isArray(saved) ? saved.filter(isRequest).slice(0, 4) : [];
  } catch {
    state.compare = [];
  }
  for (const name of VIEW) state[name] = said.get(name) ?? '';
  if (!said.has('calculation_type')) Object.assign(state.fields, START);
}

const isRequest = (each) =>
  ['inference', 'training'].includes(each?.calculation_type) && each.body && typeof each.body === 'object';

export function store() {
  history.replaceState(null, '', `#${address()}`);
}

export function address() {
  const say = new URLSearchParams({ calculation_type: state.calculation_type });
  if (state.source !== 'bundled') say.set('source', state.source);
  for (const [name, value] of Object.entries(state.fields)) say.set(`f.${name}`, JSON.stringify(value));
  if (state.source === 'config' && state.config) say.set('config', state.config);
  if (state.compare.length) say.set('compare', JSON.stringify(state.compare));
  for (const name of VIEW) if (state[name]) say.set(name, state[name]);
  return say.toString();
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

// The request that the state stands for. `applies` says which fields are shown: only those are sent.
export function body(applies) {
  const made = Object.create(null);
  if (state.source === 'config') made.config = JSON.parse(state.config);
  for (const [name, value] of Object.entries(state.fields)) {
    if (!applies(name)) continue;
    const path = name.split('.');
    const last = path.pop();
    let inside = made;
    for (const step of path) inside = inside[step] ??= Object.create(null);
    inside[last] = value;
  }
  return made;
}

// Puts a request in the place of the state: what `body` makes of it is the request again.
export function restore({ calculation_type, body: asked }) {
  state.calculation_type = calculation_type;
  state.source = asked.config ? 'config' : asked.model_size !== undefined ? 'sizes' : 'bundled';
  state.config = asked.config ? JSON.stringify(asked.config, null, 2) : '';
  state.fields = flat({ ...asked, config: undefined });
}

// { lora: { rank: 8 } } is { 'lora.rank': 8 }.
export function flat(value, path = '') {
  const fields = {};
  for (const [name, each] of Object.entries(value)) {
    if (each === undefined || each === null) continue;
    if (typeof each === 'object' && !Array.isArray(each)) Object.assign(fields, flat(each, `${path}${name}.`));
    else fields[path + name] = each;
  }
  return fields;
}
