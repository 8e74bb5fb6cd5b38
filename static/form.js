// The question: which fields there are, when each applies, and how it is asked. Choices come from /api/config/options.

import { current, count, say, short } from './text.js';
import { make } from './make.js';
import { state } from './state.js';

const names = (table) => (Array.isArray(table) ? table.map((row) => row.name ?? row) : Object.keys(table ?? {}));
const get = (name) => state.fields[name];
const inference = () => state.calculation_type === 'inference';
const training = () => !inference();
const adapted = () => training() && ['lora', 'qlora'].includes(get('method'));
const more = (name) => () => (get(name) ?? 1) > 1;

let options = {};
let models = [];
let changed = () => {};

export function prepare(allOptions, allModels, onChange) {
  options = allOptions;
  models = allModels;
  changed = onChange;
}

export const modelNamed = (name) => models.find((each) => each.name === name || each.hub_id === name);

const precisions = () => names(options.data_types);
const whole = ['float32', 'float16', 'bfloat16'];
const size = (name, when) => ({ name, kind: 'number', least: 1, when: when ?? (() => state.source === 'sizes') });
const ways = (name, when) => ({ name, kind: 'number', least: 1, when });

// name, kind, choices, when it applies, group; `deep` fields wait under "More"
const GROUPS = [
  ['model', [
    { name: 'model_name', kind: 'model', when: () => state.source === 'bundled' },
    { name: 'config', kind: 'config', when: () => state.source === 'config' },
    { ...size('model_size'), least: 0, step: 'any' }, size('hidden_size'), size('num_hidden_layers'), size('num_attention_heads'),
    size('num_key_value_heads'), size('intermediate_size'), size('vocab_size'), size('head_dim'),
  ]],
  ['workload', [
    { name: 'sequence_length', kind: 'slider', low: 128, high: () => longest(), start: () => options.defaults?.sequence_length ?? 2048 },
    { name: 'batch_size', kind: 'slider', low: 1, high: () => 512, start: () => options.defaults?.batch_size ?? 1 },
    { name: 'prompt_length', kind: 'number', least: 1, when: inference, deep: true },
    { name: 'logits', choices: () => ['last', 'all'], when: inference, deep: true },
    { name: 'attention', choices: () => names(options.attention), deep: true },
  ]],
  ['recipe', [
    { name: 'method', choices: () => names(options.methods ?? ['full', 'lora', 'qlora']), when: training },
    { name: 'precision', choices: () => whole, when: training },
    { name: 'mixed_precision', choices: () => names(options.mixed_precisions), when: training },
    { name: 'optimizer', choices: () => names(options.optimizers), when: training },
    { name: 'lora.rank', kind: 'number', least: 1, when: adapted, start: () => 16 },
    { name: 'lora.target_modules', kind: 'words', choices: () => ['all-linear', ...names(options.lora_target_modules)], when: adapted },
    { name: 'lora.precision', choices: () => whole, when: adapted, deep: true },
    { name: 'lora.dora', kind: 'check', when: adapted, deep: true },
    { name: 'quantization', choices: () => names(options.quantizations).filter((name) => !name.startsWith('gguf')), when: () => training() && get('method') === 'qlora' },
    { name: 'gradient_checkpointing', choices: () => names(options.gradient_checkpointing), when: training },
    { name: 'loss', choices: () => names(options.losses ?? ['standard', 'chunked', 'fused']), when: training },
    { name: 'kernels', choices: () => names(options.kernels ?? ['standard', 'liger']), when: training },
    { name: 'framework', choices: () => names(options.frameworks), when: training },
    { name: 'optimizer_implementation', choices: () => names(options.optimizer_implementations ?? ['foreach', 'fused', 'for-loop']), when: training, deep: true },
    { name: 'gradient_accumulation', kind: 'number', least: 1, when: training, deep: true },
    { name: 'trainable_parameters', kind: 'number', least: 0, step: 'any', when: () => training() && !adapted(), deep: true },
    { name: 'gradient_precision', choices: () => whole, when: training, deep: true },
    { name: 'optimizer_state_precision', choices: () => whole, when: training, deep: true },
    { name: 'keep_logits', kind: 'check', when: training, deep: true },
    { name: 'activation_offload', kind: 'check', when: training, deep: true },
    { name: 'optimizer_in_backward', kind: 'check', when: training, deep: true },
    { name: 'compile', kind: 'check', when: training, deep: true },
  ]],
  ['storage', [
    { name: 'format', kind: 'format', when: inference },
    { name: 'kv_cache_precision', choices: () => names(options.kv_cache_precisions), when: inference },
  ]],
  ['serving', [
    { name: 'engine', choices: () => names(options.engines), when: inference },
    { name: 'engine_version', kind: 'text', when: () => inference() && get('engine'), deep: true },
    { name: 'engine_options', kind: 'engine_options', when: () => inference() && get('engine'), deep: true },
  ]],
  ['sharding', [
    ways('tensor_parallel', () => true),
    ways('data_parallel', training),
    { name: 'zero_stage', choices: () => [0, 1, 2, 3], when: () => training() && more('data_parallel')() },
    ways('pipeline_parallel', () => true),
    { ...ways('data_parallel', inference), deep: true },
    { name: 'data_parallel_attention', kind: 'check', when: () => inference() && more('data_parallel')(), deep: true },
    { ...ways('expert_parallel', () => true), deep: true },
    { ...ways('context_parallel', training), deep: true },
    { name: 'sequence_parallel', kind: 'check', when: () => training() && more('tensor_parallel')(), deep: true },
    { name: 'pipeline_schedule', choices: () => names(options.pipeline_schedules ?? ['1f1b', 'interleaved']), when: () => training() && more('pipeline_parallel')() },
    { ...ways('micro_batches', () => training() && more('pipeline_parallel')()) },
    { ...ways('virtual_stages', () => training() && more('pipeline_parallel')()), deep: true },
  ]],
  ['card', [
    { name: 'gpu', choices: () => names(options.gpus), labels: (name) => gpuLabel(name) },
    { name: 'gpu_memory_gib', kind: 'number', least: 0, step: 'any', when: () => !get('gpu'), deep: true },
    { name: 'gpu_count', kind: 'number', least: 1, when: () => get('gpu') || get('gpu_memory_gib'), deep: true },
  ]],
];

const FIELDS = new Map();
for (const [, fields] of GROUPS) for (const field of fields) FIELDS.set(field.name, [...(FIELDS.get(field.name) ?? []), field]);

const shown = (field) => !field.when || Boolean(field.when());

// Whether a request field is part of the question as it stands.
export function applies(name) {
  if (name.startsWith('engine_options.')) return inference() && Boolean(get('engine'));
  if (name === 'precision' || name === 'quantization') if (inference()) return true;
  return (FIELDS.get(name) ?? []).some(shown);
}

function longest() {
  const model = modelNamed(get('model_name'));
  return Math.min(Math.max(model?.max_context ?? 131072, 8192), 1048576);
}

function gpuLabel(name) {
  const row = Array.isArray(options.gpus) ? options.gpus.find((each) => each.name === name) : options.gpus?.[name];
  const gib = row?.gib ?? row?.memory_gib ?? row?.GiB ?? (typeof row === 'number' ? row : null);
  return gib ? `${name} · ${Math.round(gib * 10) / 10} GiB` : name;
}

let numbered = 0;

// ------------------------------------------------------------------ drawing

export function draw(form) {
  const open = [...form.querySelectorAll('details')].filter((each) => each.open).map((each) => each.dataset.group);
  const focused = document.activeElement?.closest?.('[data-field]')?.dataset.field;
  const scrolled = form.scrollTop;
  form.replaceChildren(kindOf());
  for (const [group, fields] of GROUPS) {
    const plain = fields.filter((field) => !field.deep && shown(field));
    const deep = fields.filter((field) => field.deep && shown(field));
    if (!plain.length && !deep.length && group !== 'model') continue;
    const set = make('fieldset', {}, make('legend', {}, say(group)));
    if (group === 'model') set.append(sources());
    set.append(...paired(plain));
    if (deep.length) {
      const chosen = deep.some((field) => get(field.name) !== undefined || Object.keys(state.fields).some((name) => name.startsWith(`${field.name}.`)));
      set.append(make('details', { open: open.includes(group) || chosen, 'data-group': group }, make('summary', {}, say('more')), make('div', {}, paired(deep))));
    }
    form.append(set);
  }
  form.scrollTop = scrolled;
  if (focused) form.querySelector(`[data-field="${CSS.escape(focused)}"] :is(input, select, textarea, button)`)?.focus({ preventScroll: true });
}

function paired(fields) {
  const made = [];
  let pair = [];
  const flush = () => {
    if (pair.length > 1) made.push(make('div', { class: 'pair' }, pair));
    else made.push(...pair);
    pair = [];
  };
  for (const field of fields) {
    if (['number', undefined].includes(field.kind) && !['gpu'].includes(field.name)) {
      pair.push(control(field));
      if (pair.length === 2) flush();
    } else {
      flush();
      made.push(control(field));
    }
  }
  flush();
  return made;
}

function toggle(label, choices, chosen, choose) {
  return make('div', { class: 'segmented', role: 'group', 'aria-label': say(label) },
    choices.map((name) => make('button', { type: 'button', 'aria-pressed': String(name === chosen), 'data-choice': name, onclick: () => choose(name) }, say(name))));
}

const kindOf = () => toggle('calculation_type', ['inference', 'training'], state.calculation_type, (name) => {
  state.calculation_type = name;
  changed(true);
});

const sources = () => toggle('model', ['bundled', 'config', 'sizes'], state.source, (name) => {
  state.source = name;
  changed(true);
});

function frame(field, input, extra) {
  const id = `field-${(numbered += 1)}`;
  const target = input.matches('input, select, textarea') ? input : input.querySelector('input, select, textarea');
  if (target) {
    target.id = id;
    target.setAttribute('aria-describedby', `${id}-fault`);
  }
  const box = make('div', { class: `field ${extra ?? ''}`, 'data-field': field.name });
  const label = make('label', { for: id }, say(field.label ?? field.name));
  const fault = make('p', { class: 'fault', id: `${id}-fault`, hidden: true });
  if (extra === 'check') box.append(input, label, fault);
  else box.append(label, input, fault);
  return box;
}

function set(name, value, redraw = false) {
  if (value === undefined || value === '' || Number.isNaN(value)) delete state.fields[name];
  else state.fields[name] = value;
  changed(redraw);
}

function control(field) {
  switch (field.kind) {
    case 'model': return modelSearch(field);
    case 'config': return configBox(field);
    case 'slider': return slider(field);
    case 'format': return formatChoice(field);
    case 'engine_options': return engineOptions();
    case 'check': return frame(field, make('input', { type: 'checkbox', checked: Boolean(get(field.name)), onchange: (event) => set(field.name, event.target.checked || undefined, true) }), 'check');
    case 'words': return words(field);
    case 'text': return frame(field, make('input', { type: 'text', value: get(field.name) ?? '', placeholder: say('automatic'), oninput: (event) => set(field.name, event.target.value.trim()) }));
    case 'number': return numberField(field);
    default: return choice(field);
  }
}

function numberField(field) {
  const fallback = field.start?.() ?? options.defaults?.[field.name];
  return frame(field, make('input', {
    type: 'number', min: String(field.least ?? 0), step: String(field.step ?? 1), inputmode: 'decimal', value: String(get(field.name) ?? ''),
    placeholder: typeof fallback === 'number' ? String(fallback) : say('automatic'),
    oninput: (event) => set(field.name, event.target.value === '' ? undefined : Number(event.target.value)),
    onchange: () => changed(true),
  }));
}

function choice(field) {
  const value = get(field.name);
  const fallback = options.defaults?.[field.name];
  const empty = fallback ? `${say('automatic')} (${fallback})` : field.name === 'engine' || field.name === 'gpu' ? say('none') : say('automatic');
  const list = make('select', { onchange: (event) => {
    const picked = event.target.value;
    set(field.name, picked === '' ? undefined : JSON.parse(picked), true);
  } }, make('option', { value: '' }, empty), field.choices().map((name) => make('option', { value: JSON.stringify(name), selected: name === value }, field.labels ? field.labels(name) : String(name))));
  return frame(field, list);
}

function words(field) {
  const value = get(field.name);
  const text = Array.isArray(value) ? value.join(', ') : value ?? '';
  const id = `words-${(numbered += 1)}`;
  const input = make('input', { type: 'text', value: text, placeholder: 'all-linear', oninput: (event) => {
    const said = event.target.value.split(/[\s,]+/).filter(Boolean);
    set(field.name, said.length ? (said.length === 1 && said[0] === 'all-linear' ? 'all-linear' : said) : undefined);
  } });
  input.setAttribute('list', id);
  const box = frame(field, input);
  box.append(make('datalist', { id }, [...new Set(field.choices())].map((name) => make('option', { value: name }))));
  return box;
}

// Precision and quantization are one choice: a request has one of them.
function formatChoice(field) {
  const chosen = get('quantization') ? `q:${get('quantization')}` : get('precision') ? `p:${get('precision')}` : '';
  const group = (kind, label, list) => make('optgroup', { label }, list.map((name) => make('option', { value: `${kind}:${name}`, selected: chosen === `${kind}:${name}` }, name)));
  const list = make('select', { onchange: (event) => {
    delete state.fields.precision;
    delete state.fields.quantization;
    const [kind, ...name] = event.target.value.split(':');
    if (kind) state.fields[kind === 'q' ? 'quantization' : 'precision'] = name.join(':');
    changed(true);
  } }, make('option', { value: '' }, say('own')), group('p', say('precision'), precisions()), group('q', say('quantization'), names(options.quantizations)));
  const box = frame(field, list);
  box.dataset.also = 'precision quantization quantization_options';
  return box;
}

function slider(field) {
  const high = Math.max(field.high(), get(field.name) ?? 1);
  const value = get(field.name) ?? field.start();
  const position = (n) => Math.round((1000 * Math.log(Math.max(n, field.low) / field.low)) / Math.log(high / field.low));
  const figure = (at) => nice(field.low * (high / field.low) ** (at / 1000), field.low);
  const typed = make('input', { type: 'number', min: '1', step: '1', inputmode: 'numeric', value: String(value) });
  const range = make('input', { type: 'range', min: '0', max: '1000', value: String(position(value)), 'aria-label': say(field.name), 'aria-valuetext': count(value) });
  range.addEventListener('input', () => {
    const n = figure(Number(range.value));
    typed.value = String(n);
    range.setAttribute('aria-valuetext', count(n));
    set(field.name, n);
  });
  typed.addEventListener('input', () => {
    const n = typed.value === '' ? undefined : Number(typed.value);
    if (n > 0) range.value = String(position(n));
    set(field.name, n);
  });
  const box = frame(field, typed, 'slider');
  const both = make('div', { class: 'both' });
  typed.replaceWith(both);
  both.append(range, typed);
  return box;
}

// Round figures along a logarithmic slider.
function nice(n, low) {
  if (low === 1) return n < 16 ? Math.round(n) : Math.round(n / 4) * 4;
  const step = 2 ** Math.max(5, Math.floor(Math.log2(n)) - 4);
  return Math.max(low, Math.round(n / step) * step);
}

function configBox(field) {
  return frame(field, make('textarea', { spellcheck: false, placeholder: '{"model_type": "llama", "hidden_size": 4096, …}', oninput: (event) => {
    state.config = event.target.value;
    changed(false);
  } }, state.config));
}

function engineOptions() {
  const table = options.engines?.[get('engine')]?.options ?? (Array.isArray(options.engines) ? options.engines.find((each) => each.name === get('engine'))?.options : null) ?? {};
  const rows = Array.isArray(table) ? table.map((row) => [row.name, row]) : Object.entries(table);
  return make('div', { 'data-field': 'engine_options', class: 'field' }, make('p', { class: 'hint' }, say('engine_options')),
    make('p', { class: 'fault', hidden: true }),
    rows.map(([name, row]) => engineOption(name, row?.default ?? row)));
}

function engineOption(name, fallback) {
  const field = { name: `engine_options.${name}`, label: name };
  const value = get(field.name);
  if (typeof fallback === 'boolean') {
    return frame(field, make('input', { type: 'checkbox', checked: Boolean(value ?? fallback), onchange: (event) => set(field.name, event.target.checked === fallback ? undefined : event.target.checked) }), 'check');
  }
  const numeric = typeof fallback === 'number' || fallback === null || fallback === undefined;
  return frame(field, make('input', { type: numeric ? 'number' : 'text', step: 'any', value: String(value ?? ''), placeholder: fallback === null || fallback === undefined || typeof fallback === 'object' ? say('automatic') : String(fallback), oninput: (event) => {
    const said = event.target.value.trim();
    set(field.name, said === '' ? undefined : numeric ? Number(said) : said);
  } }));
}

// ------------------------------------------------------------------ choosing a bundled model

function modelSearch(field) {
  const id = `models-${(numbered += 1)}`;
  const input = make('input', { type: 'text', role: 'combobox', 'aria-expanded': 'false', 'aria-controls': id, 'aria-autocomplete': 'list', value: get('model_name') ?? '', placeholder: say('search', { count: count(models.length) }) });
  const list = make('ul', { class: 'list', role: 'listbox', id, hidden: true, 'aria-label': say('model_name') });
  let at = -1;
  let found = [];
  const close = () => {
    list.hidden = true;
    input.setAttribute('aria-expanded', 'false');
    input.removeAttribute('aria-activedescendant');
  };
  const mark = (index) => {
    at = index;
    [...list.children].forEach((item, i) => item.setAttribute('aria-selected', String(i === at)));
    const item = list.children[at];
    if (item?.id) input.setAttribute('aria-activedescendant', item.id);
    item?.scrollIntoView({ block: 'nearest' });
  };
  const pick = (model) => {
    input.value = model.name;
    close();
    set('model_name', model.name, true);
  };
  const show = (everything) => {
    found = matching(everything ? '' : input.value);
    list.replaceChildren(...(found.length ? found.map((model, index) => make('li', { role: 'option', id: `${id}-${index}`, 'aria-selected': 'false', onmousedown: (event) => {
      event.preventDefault();
      pick(model);
    } }, model.name, ' ', make('small', {}, `${model.family} · ${model.parameter_count ? short(model.parameter_count) : ''}`))) : [make('li', { role: 'option', 'aria-disabled': 'true' }, say('no_match'))]));
    list.hidden = false;
    input.setAttribute('aria-expanded', 'true');
    at = -1;
  };
  input.addEventListener('focus', () => input.select());
  input.addEventListener('click', () => show(true));
  input.addEventListener('input', () => show(false));
  input.addEventListener('blur', () => {
    close();
    if (input.value.trim() !== (get('model_name') ?? '')) set('model_name', input.value.trim(), true);
  });
  input.addEventListener('keydown', (event) => {
    if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      event.preventDefault();
      if (list.hidden) show(true);
      mark(Math.max(0, Math.min(found.length - 1, at + (event.key === 'ArrowDown' ? 1 : -1))));
    } else if (event.key === 'Enter') {
      event.preventDefault();
      if (!list.hidden && found[Math.max(at, 0)]) pick(found[Math.max(at, 0)]);
      else set('model_name', input.value.trim(), true);
    } else if (event.key === 'Escape') close();
  });
  const box = frame(field, make('div', { class: 'search' }, input, list));
  const model = modelNamed(get('model_name'));
  if (model) box.append(make('p', { class: 'hint' }, `${model.hub_id ?? model.name} · ${say('parameters', { count: count(model.parameter_count ?? 0) })}`));
  return box;
}

function matching(text) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const size = (model) => (model.parameter_count ? short(model.parameter_count).toLowerCase() : '');
  return models.filter((model) => words.every((word) => `${model.name} ${model.hub_id} ${model.family} ${model.model_type} ${size(model)}`.toLowerCase().includes(word))).slice(0, 400);
}

// ------------------------------------------------------------------ faults beside their fields

export function clearFaults(form) {
  for (const box of form.querySelectorAll('[data-fault]')) delete box.dataset.fault;
  for (const line of form.querySelectorAll('.fault')) {
    line.hidden = true;
    line.textContent = '';
  }
  for (const input of form.querySelectorAll('[aria-invalid]')) input.removeAttribute('aria-invalid');
}

// Puts a message at its field; false if no field shows it.
export function putFault(form, path, message) {
  const boxes = [...form.querySelectorAll('[data-field]')];
  const box = boxes.find((each) => each.dataset.field === path)
    ?? boxes.find((each) => each.dataset.also?.split(' ').includes(path))
    ?? boxes.find((each) => path.startsWith(`${each.dataset.field}.`) || path.startsWith(`${each.dataset.field}[`));
  const line = box?.querySelector('.fault');
  if (!line) return false;
  box.dataset.fault = '';
  line.hidden = false;
  line.textContent = line.textContent ? `${line.textContent} ${message}` : message;
  box.querySelector('input, select, textarea')?.setAttribute('aria-invalid', 'true');
  const closed = box.closest('details');
  if (closed) closed.open = true;
  return true;
}

export { current };
