// Pictures of an answer: a stacked bar, moments, a curve, a table of colours. Each also says its figures in words.

import { make } from './make.js';
import { brief, count, memory, rough, say, unitBytes } from './text.js';

const TOTALS = ['inference_memory', 'training_memory'];
const ORDER = [
  'model_weights',
  'kv_cache',
  'activation_memory',
  'gradient_memory',
  'optimizer_memory',
  'master_weights',
  'adapter_memory',
  'temporary_memory',
  'runtime_overhead',
];

export const total = (bytes) => bytes.inference_memory ?? bytes.training_memory;

// A part has its colour everywhere: in the bar, the curve and the comparison.
const colourOf = (name) => (ORDER.includes(name) ? ORDER.indexOf(name) : ORDER.length);

// The parts of an answer, with the formula of each.
export function partsOf(reply, bytes = reply.memory_bytes) {
  const explained = Object.fromEntries((reply.explanation ?? []).map((part) => [part.part, part]));
  return Object.entries(bytes)
    .filter(([name]) => !TOTALS.includes(name))
    .map(([name, size]) => ({
      name,
      size,
      colour: colourOf(name),
      formula: explained[name]?.formula ?? '',
      low: explained[name]?.low,
      high: explained[name]?.high,
    }));
}

// ------------------------------------------------------------------ bar

// Parts stacked against a capacity in bytes (0: none), and the share of it that an engine may use. `light` is told
// which part is looked at; the bar is at least `least` bytes wide, so that several have one scale.
export function bar(parts, capacity, { light, least = 0, share = 0, room = '' } = {}) {
  const whole = parts.reduce((sum, part) => sum + part.size, 0);
  const width = Math.max(whole, capacity, least) || 1;
  const title = `${say('total_title')}: ${memory(whole)}${capacity ? ` ${say('of')} ${memory(capacity)}` : ''}`;
  const strip = make('div', { class: 'bar', role: 'group', 'aria-label': title });
  for (const part of parts.filter((each) => each.size)) {
    const wide = part.size / width;
    const words = `${say(part.name)}: ${memory(part.size)}`;
    const look = () => light?.(part.name);
    const away = () => light?.(null);
    const piece = make(
      'button',
      {
        type: 'button',
        class: `piece c${part.colour}`,
        title: [words, part.formula].filter(Boolean).join('\n'),
        'aria-label': [words, part.formula].filter(Boolean).join('. '),
        onmouseenter: look,
        onfocus: look,
        onmouseleave: away,
        onblur: away,
      },
      wide > 0.14 ? make('span', {}, say(part.name)) : '',
    );
    piece.style.flexBasis = `${100 * wide}%`;
    strip.append(piece);
  }
  const frame = make('div', { class: 'bar-frame' }, strip);
  if (capacity) {
    const limit = make('div', { class: 'limit' });
    limit.style.left = `${(100 * capacity) / width}%`;
    frame.append(limit);
  }
  if (share) {
    const line = make('div', { class: 'share' });
    line.style.left = `${(100 * share) / width}%`;
    frame.append(line);
  }
  frame.append(
    make(
      'div',
      { class: 'scale' },
      make('span', {}, memory(whole)),
      make('span', {}, room),
      make('span', {}, capacity ? `${say('limit')} ${memory(capacity)}` : ''),
    ),
  );
  return frame;
}

// ------------------------------------------------------------------ moments

// One bar for each moment, the peak marked.
export function moments(phases, peak, capacity) {
  const most = Math.max(...Object.values(phases), 1);
  return make(
    'div',
    { class: 'moments', role: 'list' },
    Object.entries(phases).map(([name, size]) => {
      const strip = make('div', { class: 'strip' });
      strip.style.width = `${(100 * size) / most}%`;
      return make(
        'div',
        { class: name === peak ? 'moment peak' : 'moment', role: 'listitem', 'data-phase': name, 'data-bytes': size },
        make('span', { class: 'name' }, say(name), name === peak ? make('span', { class: 'tag' }, say('peak')) : ''),
        make('div', { class: 'track' }, strip),
        make('span', { class: capacity && size > capacity ? 'figure over' : 'figure' }, memory(size)),
      );
    }),
  );
}

// ------------------------------------------------------------------ curve

// Parts stacked over context: rows are { tokens, parts, size }. `limit` is the memory there is, `fitsTo` the longest
// context that fits (undefined: nothing known), `now` the context of the question.
export function curve(rows, { limit, fitsTo, now, width }) {
  const W = Math.max(300, Math.round(width)),
    H = W < 500 ? 260 : 320;
  const left = 12,
    right = 12,
    top = 26,
    bottom = 34;
  const low = rows[0].tokens,
    high = rows.at(-1).tokens;
  const largest = Math.max(...rows.map((row) => row.size));
  const most = 1.1 * Math.max(largest, limit && limit < 3 * largest ? limit : 0);
  const x = (n) => left + ((W - left - right) * Math.log(n / low)) / Math.log(high / low);
  const y = (size) => H - bottom - ((H - top - bottom) * size) / most;
  const point = (n, size) => `${x(n).toFixed(1)},${y(size).toFixed(1)}`;
  const fits =
    fitsTo === undefined ? '' : ` ${fitsTo >= low ? say('crosses', { count: count(fitsTo) }) : say('full')}.`;
  const end = (row) => `${count(row.tokens)} ${say('tokens')} ${memory(row.size)}`;
  const picture = make('svg:svg', {
    viewBox: `0 0 ${W} ${H}`,
    width: W,
    height: H,
    role: 'img',
    'aria-label': `${say('curve_title')}: ${end(rows[0])}; ${end(rows.at(-1))}.${fits}`,
  });

  // the parts, each on top of the ones before
  const names = ORDER.concat('other').filter((name) => rows.some((row) => row.parts[name]));
  const floor = rows.map(() => 0);
  for (const name of names) {
    const below = rows.map((row, index) => point(row.tokens, floor[index])).reverse();
    rows.forEach((row, index) => {
      floor[index] += row.parts[name] ?? 0;
    });
    const above = rows.map((row, index) => point(row.tokens, floor[index]));
    picture.append(make('svg:polygon', { class: `area f${colourOf(name)}`, points: [...above, ...below].join(' ') }));
  }
  picture.append(
    make('svg:polyline', { class: 'line', points: rows.map((row) => point(row.tokens, row.size)).join(' ') }),
  );

  // lines of equal memory, and the lengths below
  for (const size of ticks(most, 4)) {
    picture.append(
      make('svg:line', { class: 'axis', x1: left, x2: W - right, y1: y(size), y2: y(size) }),
      words(left + 2, y(size) - 4, rough(size), 'start'),
    );
  }
  const doublings = Math.log2(high / low);
  const step = Math.ceil(doublings / Math.max(2, Math.floor((W - left - right) / 62)));
  for (let power = 0; power <= doublings + 0.01; power += step) {
    const n = Math.round(low * 2 ** power);
    const place = power === 0 ? 'start' : x(n) > W - 30 ? 'end' : 'middle';
    picture.append(
      make('svg:line', { class: 'axis', x1: x(n), x2: x(n), y1: H - bottom, y2: H - bottom + 4 }),
      words(x(n), H - bottom + 17, brief(n), place),
    );
  }
  picture.append(words(W - right, H - 3, say('tokens'), 'end'));

  // what does not fit, and where it begins
  if (fitsTo !== undefined && fitsTo < high) {
    const from = Math.max(x(Math.max(fitsTo, low)), left);
    picture.append(
      make('svg:rect', { class: 'beyond', x: from, y: top, width: W - right - from, height: H - top - bottom }),
    );
    if (fitsTo >= low) {
      picture.append(
        make('svg:line', { class: 'cross', x1: from, x2: from, y1: top, y2: H - bottom }),
        words(
          from > W / 2 ? from - 6 : from + 6,
          top + 12,
          say('crosses', { count: count(fitsTo) }),
          from > W / 2 ? 'end' : 'start',
          'strong',
        ),
      );
    }
  }
  if (limit && limit <= most) {
    picture.append(
      make('svg:line', { class: 'card-limit', x1: left, x2: W - right, y1: y(limit), y2: y(limit) }),
      words(left + 84, y(limit) - 6, `${say('limit')} ${memory(limit)}`, 'start', 'strong'),
    );
  }
  const here = rows.find((row) => row.tokens === now);
  if (here) picture.append(make('svg:circle', { class: 'here', cx: x(now), cy: y(here.size), r: 6 }));
  return make(
    'div',
    { class: 'curve' },
    picture,
    pointed(picture, rows, { x, y, W, top, base: H - bottom }),
    key(names),
  );
}

// What is under the pointer, in words.
function pointed(picture, rows, { x, y, W, top, base }) {
  const line = make('svg:line', { class: 'pointer', y1: top, y2: base, visibility: 'hidden' });
  const dot = make('svg:circle', { class: 'here', r: 4, visibility: 'hidden' });
  picture.append(line, dot);
  const said = make('p', { class: 'hint told', 'aria-hidden': 'true' }, say('point'));
  const show = (visible) =>
    [line, dot].forEach((each) => each.setAttribute('visibility', visible ? 'visible' : 'hidden'));
  picture.addEventListener('pointermove', (event) => {
    const box = picture.getBoundingClientRect();
    const place = ((event.clientX - box.left) * W) / box.width;
    const row = rows.reduce((best, each) =>
      Math.abs(x(each.tokens) - place) < Math.abs(x(best.tokens) - place) ? each : best,
    );
    for (const name of ['x1', 'x2']) line.setAttribute(name, x(row.tokens));
    dot.setAttribute('cx', x(row.tokens));
    dot.setAttribute('cy', y(row.size));
    show(true);
    const fits = row.fits === true ? ` · ${say('fits')}` : row.fits === false ? ` · ${say('full')}` : '';
    said.textContent = `${count(row.tokens)} ${say('tokens')}: ${memory(row.size)}${fits}`;
  });
  picture.addEventListener('pointerleave', () => {
    show(false);
    said.textContent = say('point');
  });
  return said;
}

const words = (x, y, text, anchor, more = '') => make('svg:text', { x, y, 'text-anchor': anchor, class: more }, text);

const key = (names) =>
  make(
    'ul',
    { class: 'key' },
    names.map((name) => make('li', {}, make('span', { class: `swatch c${colourOf(name)}` }), say(name))),
  );

// About n figures up to most, round in the chosen unit.
function ticks(most, n) {
  const unit = unitBytes();
  const wanted = most / unit / n;
  const power = 10 ** Math.floor(Math.log10(wanted));
  const step = unit * power * [1, 2, 5, 10].find((each) => each * power >= wanted);
  return Array.from({ length: Math.floor(most / step) }, (_, index) => step * (index + 1)).filter(
    (size) => size < most * 0.97,
  );
}

// ------------------------------------------------------------------ context × sequences

// rows: { values: [length, batch], memory_bytes, fits } or { values, error }
export function heat(lengths, batches, rows, now) {
  const cells = new Map(rows.map((row) => [row.values.join('/'), row]));
  const most = Math.log(Math.max(...rows.map((row) => (row.memory_bytes ? total(row.memory_bytes) : 1))));
  const least = Math.log(Math.min(...rows.map((row) => (row.memory_bytes ? total(row.memory_bytes) : Infinity))));
  const cell = (length, batch) => {
    const row = cells.get(`${length}/${batch}`);
    if (!row?.memory_bytes) return make('td', { title: row?.error }, '–');
    const size = total(row.memory_bytes);
    const kind = row.fits === true ? 'fits' : row.fits === false ? 'full' : 'any';
    const depth = Math.round((5 * (Math.log(size) - least)) / (most - least || 1));
    const mark = row.fits === true ? '✓' : row.fits === false ? '✗' : '';
    const words = `${memory(size)}${mark ? `, ${say(row.fits ? 'fits' : 'full')}` : ''}`;
    return make(
      'td',
      { class: `${kind} d${depth} ${now[0] === length && now[1] === batch ? 'now' : ''}`, title: words },
      mark ? make('span', { 'aria-label': say(row.fits ? 'fits' : 'full'), role: 'img' }, mark) : '',
      ' ',
      memory(size),
    );
  };
  return make(
    'div',
    { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': say('grid_title') },
    make(
      'table',
      { class: 'heat' },
      make('caption', { class: 'hint' }, `${say('sequence_length')} ↓ · ${say('batch_size')} →`),
      make(
        'thead',
        {},
        make(
          'tr',
          {},
          make('td', {}),
          batches.map((n) => make('th', { scope: 'col' }, count(n))),
        ),
      ),
      make(
        'tbody',
        {},
        lengths.map((length) =>
          make(
            'tr',
            {},
            make('th', { scope: 'row' }, count(length)),
            batches.map((batch) => cell(length, batch)),
          ),
        ),
      ),
    ),
  );
}
