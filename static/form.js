// The question: which fields there are, when each applies, and how it is asked. Choices come from /api/config/options.
// Every field of the kind of calculation is drawn once; a change only hides and shows, so that nothing that the reader
// is using is replaced under their hands.

import { make } from './make.js';
import { modelSearch } from './models.js';
import { SIZES, state } from './state.js';
import { count, gib, say } from './text.js';

const names = (table) => (Array.isArray(table) ? table.map((row) => row.name ?? row) : Object.keys(table ?? {}));
const get = (name) => state.fields[name];
const inference = () => state.calculation_type === 'inference';
const training = () => !inference();
const adapted = () => training() && ['lora', 'qlora'].includes(get('method'));
const several = (name) => () => (get(name) ?? 1) > 1;

let options = {};
let models = [];
let changed = () => {}; // changed(): a value is new; changed(true): draw the whole form again

export function prepare(allOptions, onChange) {
  options = allOptions;
  changed = onChange;
}

export function know(allModels) {
  models = allModels;
}

const modelNamed = (name) => models.find((each) => each.name === name || each.hub_id === name);

// What holds if a field is left alone, where that does not depend on the rest.
function fallback(name) {
  const known = options.defaults ?? {};
  const value = name.startsWith('lora.') ? known.lora?.[name.slice(5)] : known[state.calculation_type]?.[name];
  return value ?? (typeof known[name] === 'object' ? undefined : known[name]);
}

// ------------------------------------------------------------------ the fields

const ifSizes = () => state.source === 'sizes';
const precisions = () => names(options.training_precisions ?? ['float32', 'float16', 'bfloat16']);
const plainQuantizations = () => names(options.quantizations).filter((name) => !name.startsWith('gguf'));
const number = (name, when, more = {}) => ({ name, kind: 'number', least: 1, when, ...more });
const choice = (name, table, when, more = {}) => ({
  name,
  kind: 'choice',
  choices: () => names(options[table] ?? table),
  when,
  ...more,
});
const check = (name, when, more = {}) => ({ name, kind: 'check', when, ...more });
const always = () => true;

// `deep` fields wait under "More".
const GROUPS = [
  [
    'model',
    [
      { name: 'model_name', kind: 'model', when: () => state.source === 'bundled' },
      { name: 'config', kind: 'config', when: () => state.source === 'config' },
      number('model_size', ifSizes, { least: 0, step: 'any' }),
      ...SIZES.slice(1).map((name) => number(name, ifSizes)),
      ...['num_key_value_heads', 'intermediate_size', 'vocab_size', 'head_dim'].map((name) => number(name, ifSizes)),
    ],
  ],
  [
    'workload',
    [
      { name: 'sequence_length', kind: 'slider', low: 128, high: longest, when: always },
      { name: 'batch_size', kind: 'slider', low: 1, high: () => 512, when: always },
      number('prompt_length', inference, { deep: true }),
      choice('logits', 'logits', inference, { deep: true }),
      choice('attention', 'attention', always, { deep: true }),
    ],
  ],
  [
    'storage',
    [
      { name: 'format', kind: 'format', when: inference },
      choice('kv_cache_precision', 'kv_cache_precisions', inference, { wide: true }),
    ],
  ],
  [
    'serving',
    [
      choice('engine', 'engines', inference, { wide: true, none: true }),
      { name: 'engine_version', kind: 'version', when: () => inference() && get('engine'), deep: true },
      { name: 'engine_options', kind: 'engine_options', when: () => inference() && get('engine'), deep: true },
    ],
  ],
  [
    'recipe',
    [
      choice('method', 'methods', training),
      choice('precision', 'training_precisions', training),
      choice('mixed_precision', 'mixed_precisions', training),
      choice('optimizer', 'optimizers', training),
      number('lora.rank', adapted),
      { name: 'lora.target_modules', kind: 'words', when: adapted },
      {
        name: 'quantization',
        kind: 'choice',
        choices: plainQuantizations,
        when: () => training() && get('method') === 'qlora',
        wide: true,
      },
      choice('gradient_checkpointing', 'gradient_checkpointing', training),
      choice('loss', 'losses', training),
      choice('kernels', 'kernels', training),
      choice('framework', 'frameworks', training),
      { name: 'lora.precision', kind: 'choice', choices: precisions, when: adapted, deep: true },
      check('lora.dora', adapted, { deep: true }),
      choice('optimizer_implementation', 'optimizer_implementations', training, { deep: true }),
      number('gradient_accumulation', training, { deep: true }),
      number('trainable_parameters', () => training() && !adapted(), { least: 0, step: 'any', deep: true }),
      { name: 'gradient_precision', kind: 'choice', choices: precisions, when: training, deep: true },
      { name: 'optimizer_state_precision', kind: 'choice', choices: precisions, when: training, deep: true },
      check('keep_logits', training, { deep: true }),
      check('activation_offload', training, { deep: true }),
      check('optimizer_in_backward', training, { deep: true }),
      check('compile', training, { deep: true }),
    ],
  ],
  [
    'card',
    [
      { name: 'gpu', kind: 'gpu', when: always },
      number('gpu_memory_gib', () => !get('gpu'), { least: 0, step: 'any', deep: true }),
      number('gpu_count', () => get('gpu') || get('gpu_memory_gib'), { deep: true }),
    ],
  ],
  [
    'sharding',
    [
      number('tensor_parallel', always),
      number('pipeline_parallel', always),
      number('data_parallel', training),
      choice('zero_stage', [0, 1, 2, 3], () => training() && several('data_parallel')()),
      choice('pipeline_schedule', 'pipeline_schedules', () => training() && several('pipeline_parallel')()),
      number('micro_batches', () => training() && several('pipeline_parallel')()),
      number('data_parallel', inference, { deep: true }),
      number('expert_parallel', always, { deep: true }),
      number('context_parallel', training, { deep: true }),
      number('virtual_stages', () => training() && several('pipeline_parallel')(), { deep: true }),
      check('sequence_parallel', () => training() && several('tensor_parallel')(), { deep: true }),
      check('data_parallel_attention', () => inference() && several('data_parallel')(), { deep: true }),
    ],
  ],
];

const FIELDS = GROUPS.flatMap(([, fields]) => fields);

// Whether a request field is part of the question as it stands.
export function applies(name) {
  if (name.startsWith('engine_options.')) return inference() && Boolean(get('engine'));
  if (inference() && ['precision', 'quantization'].includes(name)) return true;
  return FIELDS.some((field) => field.name === name && field.when());
}

function longest() {
  const most = modelNamed(get('model_name'))?.max_context ?? 131072;
  return Math.max(Math.min(Math.max(most, 8192), 1048576), get('sequence_length') ?? 1);
}

// ------------------------------------------------------------------ drawing

let drawn = []; // { field, box }
let numbered = 0;

export function draw(form) {
  const open = [...form.querySelectorAll('details[open]')].map((each) => each.dataset.group);
  const scrolled = form.scrollTop;
  drawn = [];
  form.replaceChildren(
    toggle(
      'calculation_type',
      ['inference', 'training'],
      () => state.calculation_type,
      (name) => {
        state.calculation_type = name;
      },
    ),
  );
  for (const [group, fields] of GROUPS) {
    const set = make('fieldset', { 'data-group': group }, make('legend', {}, say(group)));
    if (group === 'model') {
      set.append(
        toggle(
          'model',
          ['bundled', 'config', 'sizes'],
          () => state.source,
          (name) => {
            state.source = name;
          },
        ),
      );
    }
    const boxes = fields.map((field) => {
      const box = control(field);
      drawn.push({ field, box });
      return [field.deep, box];
    });
    set.append(
      make(
        'div',
        { class: 'fields' },
        boxes.filter(([deep]) => !deep).map(([, box]) => box),
      ),
    );
    if (boxes.some(([deep]) => deep)) {
      const touched = fields.some((field) => field.deep && field.when() && said(field.name));
      set.append(
        make(
          'details',
          { open: open.includes(group) || touched, 'data-group': group },
          make('summary', {}, say('more')),
          make(
            'div',
            { class: 'fields' },
            boxes.filter(([deep]) => deep).map(([, box]) => box),
          ),
        ),
      );
    }
    form.append(set);
  }
  refresh(form);
  form.scrollTop = scrolled;
}

const said = (name) => Object.keys(state.fields).some((each) => each === name || each.startsWith(`${name}.`));

// Shows what applies now, hides the rest.
export function refresh(form) {
  for (const { field, box } of drawn) {
    box.hidden = !field.when();
    if (!box.hidden) box.refresh?.();
  }
  for (const part of form.querySelectorAll('details, fieldset')) {
    part.hidden = ![...part.querySelectorAll('[data-field]')].some((box) => !box.hidden);
  }
  for (const part of form.querySelectorAll('.segmented')) part.refresh();
}

function toggle(label, choices, now, choose) {
  const buttons = choices.map((name) =>
    make(
      'button',
      {
        type: 'button',
        'data-choice': name,
        onclick: () => {
          choose(name);
          changed();
        },
      },
      say(name),
    ),
  );
  const box = make('div', { class: 'segmented wide', role: 'group', 'aria-label': say(label) }, buttons);
  box.refresh = () =>
    buttons.forEach((each) => each.setAttribute('aria-pressed', String(each.dataset.choice === now())));
  return box;
}

// A label, what is entered, and a place for what is wrong with it.
function frame(field, input, extra = '') {
  const id = `field-${(numbered += 1)}`;
  const target = input.matches('input, select, textarea')
    ? input
    : input.querySelector('input:not([type=range]), select, textarea');
  target.id = id;
  target.setAttribute('aria-describedby', `${id}-fault`);
  const label = make('label', { for: id }, say(field.label ?? field.name));
  const fault = make('p', { class: 'fault', id: `${id}-fault`, hidden: true });
  return make(
    'div',
    { class: `field ${extra}`, 'data-field': field.name },
    extra.includes('check') ? [input, label] : [label, input],
    fault,
  );
}

function set(name, value) {
  if (value === undefined || value === '' || Number.isNaN(value)) delete state.fields[name];
  else state.fields[name] = value;
  changed();
}

const CONTROLS = {
  model: (field) =>
    modelSearch(
      () => models,
      modelNamed,
      (input) => frame(field, input, 'wide'),
      (name) => set('model_name', name),
    ),
  config: configBox,
  slider,
  format: formatChoice,
  engine_options: engineOptions,
  version: versionChoice,
  gpu: gpuChoice,
  words,
  check: checkBox,
  text: textField,
  number: numberField,
  choice: choiceField,
};
const control = (field) => CONTROLS[field.kind](field);

function numberField(field) {
  const assumed = field.fallback ?? fallback(field.name);
  return frame(
    field,
    make('input', {
      type: 'number',
      min: field.least ?? 0,
      step: field.step ?? 1,
      inputmode: 'decimal',
      value: get(field.name) ?? '',
      placeholder: typeof assumed === 'number' ? assumed : say(SIZES.includes(field.name) ? 'required' : 'automatic'),
      oninput: (event) => set(field.name, event.target.value === '' ? undefined : Number(event.target.value)),
    }),
  );
}

function textField(field) {
  return frame(
    field,
    make('input', {
      type: 'text',
      value: get(field.name) ?? '',
      placeholder: field.fallback ?? say('automatic'),
      spellcheck: 'false',
      oninput: (event) => set(field.name, event.target.value.trim()),
    }),
  );
}

function checkBox(field) {
  const assumed = Boolean(field.fallback ?? fallback(field.name));
  return frame(
    field,
    make('input', {
      type: 'checkbox',
      checked: Boolean(get(field.name) ?? assumed),
      onchange: (event) => set(field.name, event.target.checked === assumed ? undefined : event.target.checked),
    }),
    'check wide',
  );
}

const option = (value, chosen, text) => make('option', { value, selected: chosen }, text);

function choiceField(field) {
  const assumed = field.fallback ?? fallback(field.name);
  const empty = assumed !== undefined ? `${assumed} (${say('automatic')})` : say(field.none ? 'none' : 'automatic');
  const list = make(
    'select',
    {
      'data-assumes': field.none ? null : 'automatic',
      onchange: (event) => {
        set(field.name, event.target.value === '' ? undefined : JSON.parse(event.target.value));
      },
    },
    option('', false, empty),
    field.choices().map((name) => option(JSON.stringify(name), name === get(field.name), String(name))),
  );
  return frame(field, list, field.wide ? 'wide' : '');
}

function gpuChoice(field) {
  const rows = options.gpus ?? [];
  const vendors = [...new Set(rows.map((row) => row.vendor ?? ''))];
  const list = make(
    'select',
    { onchange: (event) => set('gpu', event.target.value) },
    option('', false, say('none')),
    vendors.map((vendor) =>
      make(
        'optgroup',
        { label: vendor || say('gpu') },
        rows
          .filter((row) => (row.vendor ?? '') === vendor)
          .map((row) => option(row.name, alike(row.name, get('gpu')), `${row.name} · ${gib(row.memory_gib)}`)),
      ),
    ),
  );
  return frame(field, list, 'wide');
}

const alike = (one, other) =>
  one.replace(/[\s_-]/g, '').toLowerCase() ===
  String(other ?? '')
    .replace(/[\s_-]/g, '')
    .toLowerCase();

// One name or several, written with commas.
function words(field) {
  const value = get(field.name);
  const id = `words-${(numbered += 1)}`;
  const input = make('input', {
    type: 'text',
    list: id,
    spellcheck: 'false',
    value: [value ?? []].flat().join(', '),
    placeholder: fallback(field.name) ?? '',
    oninput: (event) => {
      const entered = event.target.value.split(/[\s,]+/).filter(Boolean);
      set(
        field.name,
        entered.length === 1 && entered[0] === 'all-linear' ? 'all-linear' : entered.length ? entered : undefined,
      );
    },
  });
  const box = frame(field, input);
  box.append(
    make(
      'datalist',
      { id },
      names(options.lora_target_modules).map((name) => make('option', { value: name })),
    ),
  );
  return box;
}

// Precision and quantization are one choice: a request has one of them.
function formatChoice(field) {
  const chosen = get('quantization') ? `q:${get('quantization')}` : get('precision') ? `p:${get('precision')}` : '';
  const group = (kind, label, list) =>
    make(
      'optgroup',
      { label: say(label) },
      list.map((name) => option(`${kind}:${name}`, chosen === `${kind}:${name}`, name)),
    );
  const list = make(
    'select',
    {
      'data-assumes': 'own',
      onchange: (event) => {
        const [kind, ...name] = event.target.value.split(':');
        delete state.fields.precision;
        delete state.fields.quantization;
        for (const each of Object.keys(state.fields))
          if (each.startsWith('quantization_options.')) delete state.fields[each];
        if (kind) state.fields[kind === 'q' ? 'quantization' : 'precision'] = name.join(':');
        changed();
      },
    },
    option('', false, say('own')),
    group('p', 'precision', names(options.data_types)),
    group('q', 'quantization', names(options.quantizations)),
  );
  const box = frame(field, list, 'wide');
  box.dataset.also = 'precision quantization quantization_options';
  return box;
}

function slider(field) {
  const now = () => get(field.name) ?? fallback(field.name) ?? field.low;
  const whole = () => Math.log(field.high() / field.low);
  const position = (n) => String(Math.round((1000 * Math.log(Math.max(n, field.low) / field.low)) / whole()));
  const figure = (place) => nice(field.low * Math.exp((whole() * place) / 1000), field.low);
  const typed = make('input', { type: 'number', min: 1, step: 1, inputmode: 'numeric', value: now() });
  const range = make('input', {
    type: 'range',
    min: 0,
    max: 1000,
    step: field.low === 1 ? 1 : 5,
    'aria-label': say(field.name),
  });
  range.addEventListener('input', () => {
    typed.value = String(figure(Number(range.value)));
    set(field.name, Number(typed.value));
  });
  typed.addEventListener('input', () => set(field.name, typed.value === '' ? undefined : Number(typed.value)));
  const box = frame(field, make('div', { class: 'both' }, range, typed), 'slider wide');
  box.refresh = () => {
    if (document.activeElement !== range) range.value = position(now());
    range.setAttribute('aria-valuetext', count(now()));
  };
  return box;
}

// Round figures along a logarithmic slider.
function nice(n, low) {
  if (low === 1) return n < 16 ? Math.round(n) : Math.round(n / 4) * 4;
  const step = 2 ** Math.max(5, Math.floor(Math.log2(n)) - 4);
  return Math.max(low, Math.round(n / step) * step);
}

function configBox(field) {
  return frame(
    field,
    make(
      'textarea',
      {
        spellcheck: 'false',
        rows: 10,
        placeholder: '{"model_type": "llama", "hidden_size": 4096, …}',
        oninput: (event) => {
          state.config = event.target.value;
          changed();
        },
      },
      state.config,
    ),
    'wide',
  );
}

const engineNow = () => (options.engines ?? []).find((each) => each.name === get('engine'));

// Draws again when the engine is another.
function byEngine(box, fill) {
  let drawnFor;
  box.refresh = () => {
    if (drawnFor === get('engine')) return;
    drawnFor = get('engine');
    fill(engineNow());
  };
  return box;
}

function versionChoice(field) {
  const list = make('select', {
    'data-assumes': 'automatic',
    onchange: (event) => set(field.name, event.target.value),
  });
  return byEngine(frame(field, list, 'wide'), (engine) => {
    const known = engine?.versions ?? [];
    if (!known.includes(get(field.name))) delete state.fields[field.name];
    list.replaceChildren(
      option('', false, say('automatic')),
      ...known.map((name) => option(name, name === get(field.name), name)),
    );
  });
}

// The options of the chosen engine, under its own names.
function engineOptions() {
  const inside = make('div', { class: 'fields' });
  const box = make(
    'div',
    { 'data-field': 'engine_options', class: 'field wide' },
    make('p', { class: 'hint' }, say('engine_options')),
    make('p', { class: 'fault', hidden: true }),
    inside,
  );
  return byEngine(box, (engine) => {
    const known = engine?.options ?? [];
    for (const name of Object.keys(state.fields)) {
      if (name.startsWith('engine_options.') && !known.some((row) => name === `engine_options.${row.name}`))
        delete state.fields[name];
    }
    inside.replaceChildren(...known.map(engineOption));
    box.classList.toggle('empty', !known.length);
  });
}

function engineOption(row) {
  const field = {
    name: `engine_options.${row.name}`,
    label: row.name,
    fallback: row.default ?? undefined,
    least: row.minimum,
    step: row.type === 'integer' ? 1 : 'any',
  };
  const kind = row.choices ? 'choice' : ({ boolean: 'check', string: 'text' }[row.type] ?? 'number');
  const box = CONTROLS[kind]({ ...field, choices: () => row.choices });
  box.classList.add('wide');
  if (row.meaning) {
    const target = box.querySelector('input, select');
    const id = `${target.id}-meaning`;
    target.setAttribute('aria-describedby', `${target.getAttribute('aria-describedby')} ${id}`);
    box.append(make('p', { class: 'hint', id }, row.meaning));
  }
  return box;
}

// ------------------------------------------------------------------ what the answer assumed

// Shows in each field that was left alone what the service used there.
export function assume(form, used) {
  for (const { field, box } of drawn) {
    if (box.hidden) continue;
    const value =
      field.name === 'format'
        ? (used.quantization ?? used.precision)
        : field.name.split('.').reduce((inside, step) => inside?.[step], used);
    if (value === undefined || value === null || typeof value === 'object') continue;
    const list = box.querySelector('select[data-assumes]');
    if (list) list.options[0].textContent = `${value} (${say(list.dataset.assumes)})`;
    const input = box.querySelector('input[type=number], input[type=text]:not([role])');
    if (input && !box.classList.contains('slider')) input.placeholder = String(value);
  }
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

// Puts a message at its field, and names to take instead; false if no field shows it.
export function putFault(form, path, message, instead = [], take = null) {
  const boxes = [...form.querySelectorAll('[data-field]')].filter((box) => !box.hidden);
  const inside = (box) => path.startsWith(`${box.dataset.field}.`) || path.startsWith(`${box.dataset.field}[`);
  const box =
    boxes.find((each) => each.dataset.field === path) ??
    boxes.find((each) => each.dataset.also?.split(' ').some((name) => path === name || path.startsWith(`${name}.`))) ??
    boxes.find(inside);
  const line = box?.querySelector('.fault');
  if (!line) return false;
  const text = box.dataset.field === path ? message : `${path.slice(box.dataset.field.length + 1) || path}: ${message}`;
  box.dataset.fault = '';
  line.hidden = false;
  line.textContent = line.textContent ? `${line.textContent} ${text}` : text;
  if (instead.length) {
    line.append(
      make(
        'span',
        { class: 'instead' },
        instead.map((name) => make('button', { type: 'button', class: 'small', onclick: () => take(name) }, name)),
      ),
    );
  }
  box.querySelector('input:not([type=range]), select, textarea')?.setAttribute('aria-invalid', 'true');
  const closed = box.closest('details');
  if (closed) closed.open = true;
  return true;
}
