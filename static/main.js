// The page: reads the address, draws the question, asks the service after each change, shows its newest answer.

import { get, newest, post, Refusal } from './api.js';
import { bar, curve, heat, moments, partsOf, savePng, saveSvg, table, total } from './charts.js';
import { applies, clearFaults, draw, modelNamed, prepare, putFault } from './form.js';
import { make, save } from './make.js';
import { address, body, load, state, store } from './state.js';
import { count, current, measure, memory, say, speak, units } from './text.js';

const GIB = 2 ** 30;
const form = document.getElementById('question');
const at = (id) => document.getElementById(id);
const main = newest(), line = newest(), table_ = newest(), cards = newest(), beside = newest();
let asked = null; // the request whose answer is shown
let reply = null;
let timer = 0;
let gridShown = false, cardsShown = false;

const path = () => `/api/memory/${state.calculation_type}`;
const chosen = () => (state.source === 'bundled' ? Boolean(state.fields.model_name) : state.source === 'config' ? Boolean(state.config.trim()) : ['model_size', 'hidden_size', 'num_hidden_layers', 'num_attention_heads'].every((name) => state.fields[name]));

function changed(redraw) {
  store();
  if (redraw) draw(form);
  clearTimeout(timer);
  timer = setTimeout(ask, 180);
}

function request() {
  try {
    return body(applies);
  } catch (fault) {
    clearFaults(form);
    putFault(form, 'config', say('bad_json', { why: fault.message }));
    return null;
  }
}

async function ask() {
  if (!chosen()) {
    note(say('pick'));
    return;
  }
  const question = request();
  if (!question) return;
  at('answer').classList.add('waiting');
  try {
    const answer = await main((signal) => post(path(), question, signal));
    if (!answer) return; // a newer question is on its way
    clearFaults(form);
    asked = { calculation_type: state.calculation_type, body: question };
    reply = answer;
    note();
    show();
  } catch (fault) {
    clearFaults(form);
    explain(fault);
  }
  at('answer').classList.remove('waiting');
}

// Messages stand at their fields; what has no field there, and what went wrong on the way, above the answer.
function explain(fault) {
  if (!(fault instanceof Refusal)) {
    note(say('failed', { why: fault.message }), true);
    return;
  }
  const details = fault.details.length ? fault.details : [{ field: fault.suggestions.length || /^Model /.test(fault.message) ? 'model_name' : '', message: [fault.message, fault.suggestions.join(', ')].filter(Boolean).join(': ') }];
  const left = details.filter((each) => !putFault(form, each.field, each.message));
  note(left.map((each) => (each.field ? `${each.field}: ${each.message}` : each.message)).join(' '), true);
}

function note(text = '', bad = false) {
  at('status').replaceChildren(...(text ? [make('p', { class: `note ${bad ? 'bad' : ''}` }, text)] : []));
}

// ------------------------------------------------------------------ the answer

const capacity = () => (reply.fit?.gpu_memory_gib ? reply.fit.gpu_memory_gib * GIB : 0);

function show() {
  const warnings = reply.warnings ?? [];
  at('status').replaceChildren(...warnings.map((text) => make('p', { class: 'note' }, text)));
  showTotal();
  showPhases();
  showCurve();
  showGrid();
  showCards();
  showCompare();
  showShare();
}

function section(id, title, ...children) {
  const box = at(id);
  box.hidden = false;
  box.replaceChildren(make('h2', { id: `${id}-title` }, title), ...children.flat().filter(Boolean));
  return box;
}

function light(name) {
  for (const row of document.querySelectorAll('#total tr[data-part]')) row.classList.toggle('lit', row.dataset.part === name);
}

function showTotal() {
  const parts = partsOf(reply);
  const fit = reply.fit;
  const gpus = fit?.gpu_count ?? 1;
  const many = Boolean(reply.per_gpu);
  const name = reply.model?.name ?? (state.source === 'config' ? state.config.match(/"model_type"\s*:\s*"([^"]+)"/)?.[1] : say('sizes'));
  const verdict = fit && make('p', { class: `verdict ${fit.fits ? 'yes' : 'no'}` },
    `${fit.fits ? `✓ ${say('fits')}` : `✗ ${say('full')}`} — ${gpus > 1 ? `${gpus} × ` : ''}${fit.gpu ?? ''} (${memory(fit.gpu_memory_gib * GIB)}): ${fit.fits ? `${memory(fit.free_gib * GIB)} ${say('free')}` : `${memory(Math.abs(fit.free_gib) * GIB)} ${say('over')}`}`);
  const limits = fit && [
    fit.max_batch_size !== undefined && fit.max_batch_size !== null ? make('span', {}, say('max_batch', { count: count(fit.max_batch_size) })) : null,
    fit.max_sequence_length !== undefined && fit.max_sequence_length !== null ? make('span', {}, say('max_length', { count: count(fit.max_sequence_length) })) : null,
  ].filter(Boolean);
  const bars = [];
  if (many) {
    const one = partsOf(reply, reply.per_gpu.memory_bytes);
    bars.push(make('h3', {}, `${say('per_gpu')}: ${memory(total(reply.per_gpu.memory_bytes))}`), bar(one, capacity(), light));
    bars.push(make('h3', {}, say('whole', { count: count(gpus) })), bar(parts, capacity() * gpus, light));
  } else bars.push(bar(parts, capacity(), light));
  const cache = reply.cache && reply.cache.reserved_bytes !== reply.cache.needed_bytes && make('p', { class: 'hint' }, say('reserved', { size: memory(reply.cache.reserved_bytes), need: memory(reply.cache.needed_bytes) }));
  const report = reply.engine_report && make('details', {}, make('summary', {}, say('report')), make('div', {}, make('table', {}, make('tbody', {}, Object.entries(reply.engine_report).map(([key, value]) => make('tr', {}, make('th', { scope: 'row' }, key), make('td', { class: 'figure' }, typeof value === 'number' ? count(value) : String(value))))))));
  section('total', `${say('total_title')}: ${name ?? ''}`,
    make('div', { class: 'head' }, make('div', { class: 'big', id: 'figure', 'data-bytes': String(total(reply.memory_bytes)) }, memory(total(reply.memory_bytes))), make('div', { class: 'hint' }, say('parameters', { count: count(reply.model?.parameter_count ?? 0) }))),
    verdict, limits?.length ? make('p', { class: 'hint' }, limits.flatMap((each, i) => (i ? [' · ', each] : [each]))) : null, ...bars, table(parts), cache, report, suggestions(fit));
}

function suggestions(fit) {
  if (!fit?.suggestions?.length) return null;
  return make('div', {}, make('h3', {}, say('suggestions')), make('ul', { class: 'suggestions' }, fit.suggestions.map((each) => make('li', {},
    `${Object.entries(each.change).map(([name, value]) => `${say(name)}: ${typeof value === 'number' ? count(value) : value}`).join(', ')} — ${memory(each.total_bytes)}, ${say('saves', { size: memory(each.saves_bytes) })}${each.fits ? `, ✓ ${say('fits')}` : ''} `,
    make('button', { type: 'button', onclick: () => {
      Object.assign(state.fields, each.change);
      if (each.change.quantization && state.calculation_type === 'inference') delete state.fields.precision;
      changed(true);
    } }, say('use'))))));
}

const showPhases = () => section('phases', say('phases_title'), moments(reply.phases, reply.peak));

function lengths(points) {
  const model = modelNamed(state.fields.model_name);
  const most = Math.max(2 * (state.fields.sequence_length ?? 2048), Math.min(model?.max_context ?? 131072, 131072), 8192);
  const high = 2 ** Math.ceil(Math.log2(most));
  return [...new Set(Array.from({ length: points }, (_, i) => Math.round(512 * (high / 512) ** (i / (points - 1)))))];
}

const workload = (...without) => {
  const { calculation_type, body: question } = asked;
  const kept = { ...question, calculation_type };
  for (const name of without) delete kept[name];
  return kept;
};

async function showCurve() {
  const values = lengths(33);
  try {
    const swept = await line((signal) => post('/api/memory/sweep', { ...workload('sequence_length', 'prompt_length'), over: 'sequence_length', values }, signal));
    if (!swept) return;
    const points = swept.rows.filter((row) => row.memory_bytes).map((row) => [[row.values].flat()[0], total(row.per_gpu_bytes ?? row.memory_bytes)]);
    if (points.length < 2) throw new Error('empty');
    const now = [reply.parameters?.sequence_length ?? 2048, total(reply.memory_bytes)];
    section('curve', say('curve_title'), curve(points, capacity() * (reply.fit?.gpu_count ?? 1), reply.fit?.max_sequence_length ?? 0, now));
  } catch {
    at('curve').hidden = true;
  }
}

async function showGrid() {
  if (!gridShown) {
    section('grid', say('grid_title'), make('button', { type: 'button', onclick: () => {
      gridShown = true;
      showGrid();
    } }, say('show_grid')));
    return;
  }
  const longs = lengths(8).map((n) => 2 ** Math.round(Math.log2(n)));
  const rows = [...new Set([...longs, reply.parameters?.sequence_length ?? 2048])].sort((a, b) => a - b);
  const batches = [...new Set([1, 2, 4, 8, 16, 32, 64, reply.parameters?.batch_size ?? 1])].sort((a, b) => a - b);
  try {
    const swept = await table_((signal) => post('/api/memory/sweep', { ...workload('sequence_length', 'batch_size', 'prompt_length'), over: ['sequence_length', 'batch_size'], values: [rows, batches] }, signal));
    if (!swept) return;
    section('grid', say('grid_title'), heat(rows, batches, swept.rows, capacity() * (reply.fit?.gpu_count ?? 1), [reply.parameters?.sequence_length ?? 2048, reply.parameters?.batch_size ?? 1]));
  } catch {
    at('grid').hidden = true;
  }
}

async function showCards() {
  if (!cardsShown) {
    section('cards', say('cards_title'), make('button', { type: 'button', onclick: () => {
      cardsShown = true;
      showCards();
    } }, say('show_cards')));
    return;
  }
  try {
    const found = await cards((signal) => post('/api/memory/fit', workload('gpu', 'gpu_memory_gib', 'gpu_count'), signal));
    if (!found) return;
    section('cards', say('cards_title'), make('div', { class: 'scroll tall', tabindex: '0', role: 'region', 'aria-label': say('cards_title') }, make('table', {},
      make('thead', {}, make('tr', {}, make('th', { scope: 'col' }, say('gpu')), make('th', { scope: 'col', class: 'figure' }, say('needed')), make('th', { scope: 'col' }, say('split')), make('th', { scope: 'col', class: 'figure' }, say('room_left')))),
      make('tbody', {}, found.gpus.map((row) => make('tr', {}, make('th', { scope: 'row' }, row.gpu), make('td', { class: 'figure' }, `${count(row.gpu_count)} ×`),
        make('td', {}, Object.entries(row.split ?? {}).map(([name, n]) => `${say(name)} ${n}`).join(', ') || '–'), make('td', { class: 'figure' }, memory(row.free_gib * GIB))))))));
  } catch (fault) {
    section('cards', say('cards_title'), make('p', { class: 'note' }, fault.message));
  }
}

// ------------------------------------------------------------------ side by side

const titleOf = (each) => [each.body.model_name ?? each.body.config?.model_type ?? `${each.body.model_size}B`, each.body.quantization ?? each.body.precision ?? '', each.body.engine ?? each.body.method ?? '', each.body.gpu ?? ''].filter(Boolean).join(' · ');

async function showCompare() {
  const full = state.compare.length >= 4;
  const button = make('button', { type: 'button', disabled: full, onclick: () => {
    state.compare = [...state.compare, structuredClone(asked)].slice(0, 4);
    store();
    showCompare();
  } }, say('add'));
  if (!state.compare.length) {
    section('compare', say('compare_title'), button);
    return;
  }
  const answers = await beside((signal) => Promise.all(state.compare.map((each) => post(`/api/memory/${each.calculation_type}`, each.body, signal).catch((fault) => {
    if (fault.name === 'AbortError') throw fault;
    return fault;
  })))).catch(() => undefined);
  if (!answers) return;
  const first = answers[0]?.memory_bytes ? total(answers[0].memory_bytes) : 0;
  section('compare', say('compare_title'), make('div', { class: 'columns' }, answers.map((answer, index) => {
    const each = state.compare[index];
    const away = make('button', { type: 'button', 'aria-label': `${say('remove')}: ${titleOf(each)}`, onclick: () => {
      state.compare = state.compare.filter((_, i) => i !== index);
      store();
      showCompare();
    } }, say('remove'));
    const use = make('button', { type: 'button', 'aria-label': `${say('load')}: ${titleOf(each)}`, onclick: () => restore(each) }, say('load'));
    if (answer instanceof Error) return make('article', {}, make('h3', {}, titleOf(each)), make('p', { class: 'fault' }, answer.message), away);
    const size = total(answer.memory_bytes);
    const limit = answer.fit ? answer.fit.gpu_memory_gib * GIB * (answer.fit.gpu_count ?? 1) : 0;
    return make('article', {}, make('h3', {}, titleOf(each)), make('p', { class: 'hint' }, `${say(each.calculation_type)} · ${count(answer.parameters.batch_size)} × ${count(answer.parameters.sequence_length)} ${say('tokens')}`),
      make('div', { class: 'big' }, memory(size)), index && first ? make('p', { class: 'hint' }, `${new Intl.NumberFormat(document.documentElement.lang, { style: 'percent', maximumFractionDigits: 1, signDisplay: 'exceptZero' }).format(size / first - 1)} ${say('difference')}`) : null,
      bar(partsOf(answer), limit, () => {}), make('ul', { class: 'suggestions' }, partsOf(answer).map((part) => make('li', {}, `${say(part.name)}: ${memory(part.size)}`))), make('div', { class: 'actions' }, use, away));
  })), make('div', { class: 'actions' }, button));
}

function restore(each) {
  const flat = {};
  const walk = (object, prefix) => {
    for (const [name, value] of Object.entries(object)) {
      if (['lora', 'engine_options', 'quantization_options'].includes(name) && value && typeof value === 'object') walk(value, `${name}.`);
      else if (name !== 'config') flat[prefix + name] = value;
    }
  };
  walk(each.body, '');
  state.calculation_type = each.calculation_type;
  state.source = each.body.config ? 'config' : each.body.model_size ? 'sizes' : 'bundled';
  state.config = each.body.config ? JSON.stringify(each.body.config, null, 1) : '';
  state.fields = flat;
  changed(true);
}

// ------------------------------------------------------------------ sharing

function showShare() {
  const where = `${location.origin}/api/memory/${asked.calculation_type}`;
  const text = JSON.stringify(asked.body);
  const curl = `curl -s ${where} -H 'Content-Type: application/json' -d '${text.replaceAll("'", "'\\''")}'`;
  const python = `import requests\n\nresponse = requests.post("${where}", json=${pythonic(asked.body)})\nresponse.raise_for_status()\nprint(response.json()["memory_requirements"])\n`;
  const parts = partsOf(reply);
  const title = titleOf(asked);
  const limit = capacity() * (reply.fit?.gpu_count ?? 1);
  const copier = (label, make_) => make('button', { type: 'button', 'data-copy': label, onclick: (event) => copy(make_(), event.currentTarget, label) }, say(label));
  const rows = [['part', 'bytes', 'formula'], ...Object.entries(reply.memory_bytes).map(([name, size]) => [name, size, parts.find((part) => part.name === name)?.formula ?? ''])];
  const csv = rows.map((row) => row.map((cell) => `"${String(cell).replaceAll('"', '""')}"`).join(',')).join('\r\n');
  section('share', say('share_title'), make('div', { class: 'actions' },
    copier('link', () => `${location.origin}${location.pathname}#${address()}`), copier('curl', () => curl), copier('python', () => python),
    make('button', { type: 'button', onclick: () => saveSvg(title, parts, limit) }, say('svg')), make('button', { type: 'button', onclick: () => savePng(title, parts, limit) }, say('png')),
    make('button', { type: 'button', onclick: () => save('memory.csv', 'text/csv', csv) }, say('csv')), make('button', { type: 'button', onclick: () => save('memory.json', 'application/json', JSON.stringify(reply, null, 2)) }, say('json'))),
    make('details', {}, make('summary', {}, 'curl'), make('div', {}, make('pre', { tabindex: '0', role: 'region', 'aria-label': 'curl' }, curl))));
}

function pythonic(value) {
  return JSON.stringify(value, null, 4).replace(/("(?:[^"\\]|\\.)*")|\b(true|false|null)\b/g, (whole, text, word) => text ?? { true: 'True', false: 'False', null: 'None' }[word]);
}

async function copy(text, button, label) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const box = make('textarea', { 'aria-label': label }, text);
    document.body.append(box);
    box.select();
    document.execCommand('copy');
    box.remove();
  }
  button.textContent = say('copied');
  setTimeout(() => { button.textContent = say(label); }, 1500);
}

// ------------------------------------------------------------------ language, units, theme

function dress() {
  for (const element of document.querySelectorAll('[data-text]')) element.textContent = say(element.dataset.text);
  for (const element of document.querySelectorAll('[data-label]')) element.setAttribute('aria-label', say(element.dataset.label));
  for (const button of document.querySelectorAll('[data-unit]')) button.setAttribute('aria-pressed', String(button.dataset.unit === units()));
  at('language').textContent = current() === 'zh' ? 'English' : '中文';
  at('language').lang = current() === 'zh' ? 'en' : 'zh-CN';
  if (state.theme) document.documentElement.dataset.theme = state.theme;
  else delete document.documentElement.dataset.theme;
  at('theme').textContent = `${say('theme')}: ${say(state.theme || 'system')}`;
  document.title = say('title');
}

function redress() {
  store();
  dress();
  draw(form);
  if (reply) show();
}

function wear() {
  speak(state.language || (navigator.language?.startsWith('zh') ? 'zh' : 'en'));
  measure(state.units);
}

async function start() {
  load();
  wear();
  dress();
  at('language').addEventListener('click', () => {
    state.language = current() === 'zh' ? 'en' : 'zh';
    wear();
    redress();
  });
  at('theme').addEventListener('click', () => {
    state.theme = { '': 'dark', dark: 'light', light: '' }[state.theme];
    redress();
  });
  for (const button of document.querySelectorAll('[data-unit]')) button.addEventListener('click', () => {
    state.units = button.dataset.unit;
    wear();
    redress();
  });
  form.addEventListener('submit', (event) => event.preventDefault());
  try {
    const [options, listed] = await Promise.all([get('/api/config/options'), get('/api/models')]);
    prepare(options, listed.models, changed);
  } catch (fault) {
    note(say('failed', { why: fault.message }), true);
    return;
  }
  draw(form);
  addEventListener('hashchange', () => {
    load();
    wear();
    dress();
    draw(form);
    ask();
  });
  await ask();
}

start();
