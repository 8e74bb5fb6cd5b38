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

const START = { model_name: 'Qwen3-8B' };

export function load() {
  const said = new URLSearchParams(location.hash.slice(1));
  state.calculation_type = said.get('calculation_type') === 'training' ? 'training' : 'inference';
  state.source = ['config', 'sizes'].includes(said.get('source')) ? said.get('source') : 'bundled';
  state.config = said.get('config') ?? '';
  state.fields = {};
  for (const [key, value] of said) if (key.startsWith('f.')) state.fields[key.slice(2)] = parsed(value);
  try {
    const saved = JSON.parse(said.get('compare') ?? '[]');
    state.compare = Array.isArray(saved) ? saved.filter((each) => each && typeof each.body === 'object').slice(0, 4) : [];
  } catch {
    state.compare = [];
  }
  for (const name of VIEW) state[name] = said.get(name) ?? '';
  if (![...said].length) Object.assign(state.fields, START);
}

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
  const made = {};
  if (state.source === 'config') made.config = JSON.parse(state.config);
  for (const [name, value] of Object.entries(state.fields)) {
    if (!applies(name)) continue;
    const path = name.split('.');
    const last = path.pop();
    let at = made;
    for (const step of path) at = at[step] ??= {};
    at[last] = value;
  }
  return made;
}
