// The answer: one section for each thing there is to see. Sections that ask more of the service wait until they are
// near the screen.

import { newest, post } from './api.js';
import { bar, curve, heat, moments, partsOf, total } from './charts.js';
import { showCompare } from './compare.js';
import { at, make } from './make.js';
import { showShare } from './share.js';
import { flat, state } from './state.js';
import { count, GIB, gib, memory, say, short } from './text.js';

let shown = null; // { asked, reply }
let tell = () => {}; // after a change of the state that the whole form must follow

export function followed({ changed }) {
  tell = () => changed(true);
}

export function show(answer) {
  shown = answer;
  showTotal();
  showPhases();
  for (const [id, draw] of [
    ['curve', showCurve],
    ['grid', showGrid],
    ['cards', showCards],
  ])
    later(id, draw);
  showCompare(section, shown, tell);
  showShare(section, shown);
}

function section(id, title, ...children) {
  const box = at(id);
  box.hidden = false;
  box.removeAttribute('aria-busy');
  box.replaceChildren(make('h2', { id: `${id}-title` }, title), ...children.flat().filter(Boolean));
  return box;
}

// ------------------------------------------------------------------ sections that wait

const near = new Set();
const due = new Map();
const watcher = new IntersectionObserver(
  (seen) => {
    for (const { target, isIntersecting } of seen) {
      if (isIntersecting) near.add(target.id);
      else near.delete(target.id);
      if (isIntersecting && due.has(target.id)) run(target.id);
    }
  },
  { rootMargin: '300px' },
);

function later(id, draw) {
  const box = at(id);
  if (box.hidden) {
    section(id, say(`${id}_title`), make('div', { class: 'waits' }));
    watcher.observe(box);
  }
  box.setAttribute('aria-busy', 'true');
  due.set(id, draw);
  if (near.has(id)) run(id);
}

function run(id) {
  const draw = due.get(id);
  due.delete(id);
  draw();
}

// ------------------------------------------------------------------ the total

const capacity = (reply) => (reply.fit?.gpu_memory_gib ?? 0) * GIB;
const gpus = (reply) => reply.fit?.gpu_count ?? 1;

function light(name) {
  for (const row of document.querySelectorAll('#total tr[data-part]'))
    row.classList.toggle('lit', row.dataset.part === name);
}

function showTotal() {
  const { asked, reply } = shown;
  const parts = partsOf(reply);
  const whole = total(reply.memory_bytes);
  const bars = [];
  if (reply.per_gpu) {
    const one = total(reply.per_gpu.memory_bytes);
    bars.push(
      make('h3', { class: 'of-one', 'data-bytes': one }, `${say('per_gpu')}: ${memory(one)}`),
      filled(reply, partsOf(reply, reply.per_gpu.memory_bytes)),
    );
    bars.push(
      make('h3', {}, `${say('whole')}: ${memory(whole)}`),
      bar(parts, capacity(reply) * gpus(reply), { light }),
    );
  } else bars.push(filled(reply, parts));
  section(
    'total',
    headline(asked, reply),
    make('p', { class: 'hint' }, subtitle(reply)),
    make(
      'div',
      { class: 'head' },
      make('div', { class: 'big', id: 'figure', 'data-bytes': whole }, memory(whole)),
      verdict(reply.fit),
    ),
    bars.flat(),
    limits(reply),
    formulas(parts, whole),
    stages(reply),
    cache(reply),
    report(reply),
    suggestions(reply.fit),
  );
  const brief = at('brief');
  brief.hidden = false;
  brief.className = `brief ${reply.fit ? (reply.fit.fits ? 'yes' : 'no') : ''}`;
  brief.replaceChildren(
    make('strong', {}, memory(whole)),
    reply.fit ? ` ${say(reply.fit.fits ? 'fits' : 'full')}` : '',
    make('span', { 'aria-hidden': 'true' }, ' ↓'),
  );
}

// The fullest GPU as its driver would show it: the parts, and what comes on top of them there.
function filled(reply, parts) {
  const { fit } = reply;
  const size = fit ? Math.round(fit.used_gib * GIB) - parts.reduce((sum, part) => sum + part.size, 0) : 0;
  const known = ['driver_context_gib', 'fragmentation_gib', 'communication_gib'].filter((name) => fit?.[name]);
  const formula = known.map((name) => `${say(name)} ${memory(fit[name].expected * GIB)}`).join(', ');
  const more = size > 2 ** 20 ? [{ name: 'outside', size, colour: 9, formula }] : [];
  const share = (reply.parameters?.engine_options?.gpu_memory_utilization ?? 0) * capacity(reply);
  return [
    bar([...parts, ...more], capacity(reply), { light, share, room: room(fit) }),
    more.length
      ? make('p', { class: 'hint' }, `${say('outside')}: ${memory(size)}${formula ? ` (${formula})` : ''}`)
      : null,
    share ? make('p', { class: 'hint' }, say('engine_share', { size: memory(share) })) : null,
  ];
}

function room(fit) {
  if (!fit || (!fit.fits && fit.free_gib >= 0)) return '';
  return `${memory(Math.abs(fit.free_gib) * GIB)} ${say(fit.free_gib < 0 ? 'over' : 'free')}`;
}

function headline(asked, reply) {
  if (reply.model?.name) return reply.model.name;
  return asked.body.config
    ? `config.json (${asked.body.config.model_type ?? '?'})`
    : `${say('sizes')} (${asked.body.model_size}B)`;
}

function subtitle(reply) {
  const used = reply.parameters ?? {};
  const { parameter_count, active_parameter_count } = reply.model ?? {};
  return [
    parameter_count ? say('parameters', { count: short(parameter_count) }) : '',
    parameter_count && active_parameter_count !== parameter_count
      ? say('active', { count: short(active_parameter_count) })
      : '',
    used.quantization ?? used.precision,
    `${count(used.batch_size ?? 1)} × ${count(used.sequence_length ?? 0)} ${say('tokens')}`,
    used.engine ?? used.method,
  ]
    .filter(Boolean)
    .join(' · ');
}

function verdict(fit) {
  if (!fit) return make('p', { class: 'verdict none' }, say('no_card'));
  const card = `${fit.gpu_count > 1 ? `${count(fit.gpu_count)} × ` : ''}${fit.gpu ?? gib(fit.gpu_memory_gib)}`;
  return make(
    'p',
    { class: `verdict ${fit.fits ? 'yes' : 'no'}` },
    make('span', { 'aria-hidden': 'true' }, fit.fits ? '✓ ' : '✗ '),
    make('strong', {}, say(fit.fits ? 'fits_on' : 'full_on', { card })),
    room(fit) ? ` · ${room(fit)}` : '',
  );
}

// How far the card goes.
function limits(reply) {
  const { fit } = reply;
  if (!fit) return null;
  const known = [
    ['max_length', fit.max_sequence_length, say('tokens')],
    ['max_batch', fit.max_batch_size, ''],
    ['min_gpus', fit.min_gpu_count, ''],
  ].filter(([, n]) => n !== undefined && n !== null);
  return known.length
    ? make(
        'dl',
        { class: 'limits' },
        known.map(([name, n, unit]) =>
          make(
            'div',
            { 'data-limit': name },
            make('dt', {}, say(name)),
            make('dd', {}, count(n), unit ? make('small', {}, ` ${unit}`) : ''),
          ),
        ),
      )
    : null;
}

function formulas(parts, whole) {
  const percent = new Intl.NumberFormat(navigator.language, { style: 'percent', maximumFractionDigits: 1 });
  const bounds = (part) =>
    part.low !== undefined && part.low !== part.high
      ? ` (${say('range', { low: memory(part.low), high: memory(part.high) })})`
      : '';
  return make(
    'div',
    { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': say('formula') },
    make(
      'table',
      { class: 'formulas' },
      make(
        'thead',
        {},
        make(
          'tr',
          {},
          ['part', 'size', 'share_of', 'formula'].map((name) =>
            make('th', { scope: 'col', class: ['size', 'share_of'].includes(name) ? 'figure' : name }, say(name)),
          ),
        ),
      ),
      make(
        'tbody',
        {},
        parts.map((part) =>
          make(
            'tr',
            { 'data-part': part.name, 'data-bytes': part.size },
            make('th', { scope: 'row' }, make('span', { class: `swatch c${part.colour}` }), say(part.name)),
            make('td', { class: 'figure', title: `${count(part.size)} B` }, memory(part.size)),
            make('td', { class: 'figure soft' }, percent.format(part.size / (whole || 1))),
            make('td', { class: 'formula' }, part.formula, bounds(part)),
          ),
        ),
      ),
    ),
  );
}

// One GPU of each pipeline stage, where they differ.
function stages(reply) {
  if (!reply.per_gpu?.stages) return null;
  return make(
    'details',
    {},
    make('summary', {}, say('stages')),
    make(
      'div',
      {},
      reply.per_gpu.stages.map((each) =>
        make(
          'div',
          { class: 'stage' },
          make('h4', {}, `${say('stage', { count: each.stage + 1 })}: ${memory(total(each.memory_bytes))}`),
          bar(partsOf(reply, each.memory_bytes), capacity(reply)),
        ),
      ),
    ),
  );
}

const cache = ({ cache: kept }) =>
  kept && kept.reserved_bytes !== kept.needed_bytes
    ? make(
        'p',
        { class: 'hint' },
        say('reserved', { size: memory(kept.reserved_bytes), need: memory(kept.needed_bytes) }),
      )
    : null;

function report({ engine_report: lines }) {
  if (!lines) return null;
  const figure = (value) => (typeof value === 'number' ? count(value) : String(value));
  return make(
    'details',
    {},
    make('summary', {}, say('report')),
    make(
      'div',
      {},
      make(
        'table',
        {},
        make(
          'tbody',
          {},
          Object.entries(lines).map(([name, value]) =>
            make(
              'tr',
              {},
              make('th', { scope: 'row' }, make('code', {}, name)),
              make('td', { class: 'figure' }, figure(value)),
            ),
          ),
        ),
      ),
    ),
  );
}

function suggestions(fit) {
  if (!fit?.suggestions?.length) return null;
  const words = (change) =>
    Object.entries(flat(change))
      .map(([name, value]) => `${say(name)}: ${typeof value === 'number' ? count(value) : value}`)
      .join(', ');
  const take = ({ change }) => {
    if (change.quantization && state.calculation_type === 'inference') delete state.fields.precision;
    if (change.precision && state.calculation_type === 'inference') delete state.fields.quantization;
    Object.assign(state.fields, flat(change));
    tell();
    at('answer').focus();
  };
  return make(
    'div',
    { class: 'suggestions' },
    make('h3', {}, say('suggestions')),
    make(
      'ul',
      {},
      fit.suggestions.map((each) =>
        make(
          'li',
          { class: each.fits ? 'fits' : '' },
          make('span', { class: 'change' }, words(each.change)),
          make(
            'span',
            { class: 'hint' },
            [memory(each.total_bytes), each.saves_bytes > 0 ? say('saves', { size: memory(each.saves_bytes) }) : '']
              .filter(Boolean)
              .join(' · '),
          ),
          make('span', { class: `tag ${each.fits ? 'yes' : ''}` }, each.fits ? `✓ ${say('fits')}` : say('helps')),
          make(
            'button',
            { type: 'button', 'aria-label': `${say('use')}: ${words(each.change)}`, onclick: () => take(each) },
            say('use'),
          ),
        ),
      ),
    ),
  );
}

function showPhases() {
  section(
    'phases',
    say('phases_title'),
    make('p', { class: 'hint' }, say(`phases_${shown.asked.calculation_type}`)),
    moments(shown.reply.phases, shown.reply.peak, capacity(shown.reply) * gpus(shown.reply)),
  );
}

// ------------------------------------------------------------------ curve, grid, cards

// The question as it was asked, without some fields.
function without(...names) {
  const kept = { ...shown.asked.body, calculation_type: shown.asked.calculation_type };
  for (const name of names) delete kept[name];
  return kept;
}

// Asks and draws; a refusal stands in the section, in words.
async function drawn(id, path, latest, question, draw) {
  try {
    const answer = await latest((signal) => post(path, question, signal));
    if (answer) draw(answer);
  } catch (fault) {
    section(id, say(`${id}_title`), make('p', { class: 'hint' }, fault.message));
  }
}

const SWEEP = '/api/memory/sweep',
  FIT = '/api/memory/fit';
const curveAsks = newest(),
  gridAsks = newest(),
  cardsAsks = newest();
const powers = (low, high) =>
  Array.from({ length: Math.round(Math.log2(high / low)) + 1 }, (_, index) => low * 2 ** index);
const lengthNow = () => shown.reply.parameters?.sequence_length ?? 2048;

// As far as the question or the card goes, at least 32K tokens.
function farthest() {
  const most = Math.max(2 * lengthNow(), 1.5 * Math.min(shown.reply.fit?.max_sequence_length ?? 0, 1048576), 32768);
  return 2 ** Math.ceil(Math.log2(most));
}

const ascending = (numbers) => [...new Set(numbers)].sort((one, other) => one - other);

function showCurve() {
  const answer = shown;
  const low = Math.min(512, 2 ** Math.floor(Math.log2(lengthNow()))),
    high = farthest();
  const steps = Math.round(4 * Math.log2(high / low));
  const regular = Array.from({ length: steps + 1 }, (_, index) => Math.round(low * (high / low) ** (index / steps)));
  const prompt = answer.asked.body.prompt_length ?? 0;
  const values = ascending([...regular, lengthNow()]).filter((n) => n >= prompt);
  drawn('curve', SWEEP, curveAsks, { ...without('sequence_length'), over: 'sequence_length', values }, (swept) => {
    const rows = swept.rows
      .filter((row) => row.memory_bytes)
      .map((row) => ({
        tokens: row.values[0],
        size: total(row.memory_bytes),
        parts: row.memory_bytes,
        fits: row.fits,
      }));
    if (rows.length < 2) throw new Error(swept.rows[0]?.error ?? say('none'));
    const { fit } = answer.reply;
    const draw = () => {
      const box = section('curve', say('curve_title'));
      const fitsTo = fit ? (fit.max_sequence_length ?? undefined) : undefined;
      box.append(
        curve(rows, {
          limit: capacity(answer.reply) * gpus(answer.reply),
          fitsTo,
          now: lengthNow(),
          width: box.clientWidth - 34,
        }),
      );
    };
    draw();
    redrawn = draw;
  });
}

let redrawn = null; // draws the curve again, for a window of another width
let width = innerWidth;
addEventListener('resize', () => {
  if (innerWidth === width) return;
  width = innerWidth;
  if (!at('curve').hidden) redrawn?.();
});

function showGrid() {
  const now = [lengthNow(), shown.reply.parameters?.batch_size ?? 1];
  const lengths = ascending([...powers(1024, Math.min(farthest(), 131072)), now[0]]).filter(
    (n) => n >= (shown.asked.body.prompt_length ?? 0),
  );
  const batches = ascending([...powers(1, 64), now[1]]);
  const question = {
    ...without('sequence_length', 'batch_size'),
    over: ['sequence_length', 'batch_size'],
    values: [lengths, batches],
  };
  drawn('grid', SWEEP, gridAsks, question, (swept) =>
    section('grid', say('grid_title'), heat(lengths, batches, swept.rows, now)),
  );
}

const SPLITS = [
  'tensor_parallel',
  'pipeline_parallel',
  'data_parallel',
  'expert_parallel',
  'context_parallel',
  'zero_stage',
];

function showCards() {
  const question = without('gpu', 'gpu_memory_gib', 'gpu_count');
  drawn('cards', FIT, cardsAsks, question, (found) => {
    const take = (row) => {
      for (const name of ['gpu_memory_gib', 'gpu_count']) delete state.fields[name];
      Object.assign(state.fields, { gpu: row.gpu }, row.split);
      tell();
      at('answer').focus();
    };
    const split = (row) =>
      Object.entries(row.split ?? {})
        .filter(([name]) => SPLITS.includes(name))
        .map(([name, n]) => `${say(name)} ${n}`)
        .join(', ');
    const filled = (row) => {
      const meter = make('div', { class: 'strip' });
      meter.style.width = `${(100 * row.used_gib) / (row.used_gib + row.free_gib || 1)}%`;
      return make('div', { class: 'track' }, meter);
    };
    const row = (each) =>
      make(
        'tr',
        { 'data-gpu': each.gpu, class: each.gpu === shown.reply.fit?.gpu ? 'lit' : '' },
        make('th', { scope: 'row' }, each.gpu),
        make('td', { class: 'figure' }, count(each.gpu_count)),
        make('td', { class: 'split' }, split(each) || '–'),
        make('td', { class: 'figure' }, memory(each.used_gib * GIB)),
        make('td', { class: 'meter' }, filled(each)),
        make('td', { class: 'figure' }, memory(each.free_gib * GIB)),
        make(
          'td',
          {},
          make(
            'button',
            { type: 'button', class: 'small', 'aria-label': `${say('use')}: ${each.gpu}`, onclick: () => take(each) },
            say('use'),
          ),
        ),
      );
    const heads = [
      ['gpu', ''],
      ['needed', 'figure'],
      ['split', ''],
      ['used_each', 'figure'],
      ['', 'meter'],
      ['room_left', 'figure'],
      ['', ''],
    ];
    section(
      'cards',
      say('cards_title'),
      found.gpus.length
        ? [
            make('p', { class: 'hint' }, say('cards_order', { count: count(found.gpus.length) })),
            make(
              'div',
              { class: 'scroll tall', tabindex: '0', role: 'region', 'aria-label': say('cards_title') },
              make(
                'table',
                { class: 'cards' },
                make(
                  'thead',
                  {},
                  make(
                    'tr',
                    {},
                    heads.map(([name, kind]) =>
                      name ? make('th', { scope: 'col', class: kind }, say(name)) : make('td', { class: kind }),
                    ),
                  ),
                ),
                make('tbody', {}, found.gpus.map(row)),
              ),
            ),
          ]
        : make('p', { class: 'hint' }, say('no_gpu')),
    );
  });
}
