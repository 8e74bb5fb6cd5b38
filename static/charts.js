// Pictures of an answer: a stacked bar, a curve, a table of colours. Each also says its figures in words.

import { count, memory, say } from './text.js';
import { make, save } from './make.js';

const TOTALS = ['inference_memory', 'training_memory'];

export const total = (bytes) => bytes.inference_memory ?? bytes.training_memory;

// The parts of an answer in their order, with the formula of each and the colour it keeps everywhere.
export function partsOf(reply, bytes = reply.memory_bytes) {
  const formulas = Object.fromEntries((reply.explanation ?? []).map((part) => [part.part, part]));
  return Object.entries(bytes).filter(([name]) => !TOTALS.includes(name)).map(([name, size], index) => ({
    name, size, colour: index % 8, formula: formulas[name]?.formula ?? '', low: formulas[name]?.low, high: formulas[name]?.high,
  }));
}

// A stacked bar against a capacity in bytes (0: none). `light` is told which part is looked at.
export function bar(parts, capacity, light) {
  const whole = parts.reduce((sum, part) => sum + part.size, 0);
  const width = Math.max(whole, capacity) || 1;
  const frame = make('div', { class: 'bar-frame' });
  const strip = make('div', { class: 'bar', role: 'group', 'aria-label': `${say('total_title')}: ${memory(whole)}${capacity ? ` ${say('of')} ${memory(capacity)}` : ''}` });
  for (const part of parts) {
    if (!part.size) continue;
    const piece = make('button', {
      type: 'button', class: `piece c${part.colour}`, title: `${say(part.name)}: ${memory(part.size)}\n${part.formula}`,
      'aria-label': `${say(part.name)}: ${memory(part.size)}. ${part.formula}`,
      onmouseenter: () => light(part.name), onfocus: () => light(part.name), onmouseleave: () => light(null), onblur: () => light(null),
    });
    piece.style.width = `${(100 * part.size) / width}%`;
    strip.append(piece);
  }
  frame.append(strip);
  if (capacity) {
    const limit = make('div', { class: 'limit', title: say('limit') });
    limit.style.left = `calc(${(100 * capacity) / width}% - 3px)`;
    frame.append(limit);
  }
  frame.append(make('div', { class: 'scale' }, make('span', {}, '0'), capacity ? make('span', {}, `${say('limit')}: ${memory(capacity)}`) : make('span', {}, memory(whole))));
  return frame;
}

export function table(parts) {
  return make('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': say('formula') }, make('table', {},
    make('thead', {}, make('tr', {}, ['part', 'size', 'formula'].map((name) => make('th', { scope: 'col', class: name === 'size' ? 'figure' : '' }, say(name))))),
    make('tbody', {}, parts.map((part) => make('tr', { 'data-part': part.name },
      make('th', { scope: 'row' }, make('span', { class: `swatch c${part.colour}` }), say(part.name)),
      make('td', { class: 'figure', title: `${count(part.size)} B` }, memory(part.size)),
      make('td', { class: 'formula' }, part.formula, part.low !== undefined && part.low !== part.high ? ` (${say('range', { low: memory(part.low), high: memory(part.high) })})` : ''))))));
}

// One thin bar for each moment, the peak marked.
export function moments(phases, peak) {
  const most = Math.max(...Object.values(phases), 1);
  return make('table', {}, make('thead', {}, make('tr', {}, make('th', { scope: 'col' }, say('moment')), make('th', { scope: 'col', class: 'figure' }, say('size')), make('td', {}, ''))),
    make('tbody', {}, Object.entries(phases).map(([name, size]) => {
      const strip = make('div', { class: `bar-thin ${name === peak ? 'c0' : 'c6'}` });
      strip.style.width = `${(100 * size) / most}%`;
      return make('tr', {}, make('th', { scope: 'row' }, say(name), name === peak ? ` ★ ${say('peak')}` : ''), make('td', { class: 'figure' }, memory(size)), make('td', { class: 'strip' }, strip));
    })));
}

// Memory over context: points are [tokens, bytes]; the card's limit is drawn where there is one, and where the curve crosses it.
export function curve(points, capacity, fitsTo, now) {
  const W = 720, H = 300, left = 86, right = 14, top = 14, bottom = 38;
  const low = points[0][0], high = points[points.length - 1][0];
  const most = 1.08 * Math.max(...points.map(([, size]) => size), capacity ? Math.min(capacity, 4 * points[points.length - 1][1]) : 0);
  const x = (n) => left + ((W - left - right) * Math.log(n / low)) / Math.log(high / low);
  const y = (size) => H - bottom - ((H - top - bottom) * size) / most;
  const words = `${say('curve_title')}: ${memory(points[0][1])} (${count(low)}) – ${memory(points[points.length - 1][1])} (${count(high)} ${say('tokens')})`;
  const picture = make('svg:svg', { viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': words });
  for (let i = 0; i <= 4; i += 1) {
    const size = (most * i) / 4;
    picture.append(make('svg:line', { class: 'axis', x1: `${left}`, x2: `${W - right}`, y1: `${y(size)}`, y2: `${y(size)}` }),
      make('svg:text', { x: `${left - 6}`, y: `${y(size) + 4}`, 'text-anchor': 'end' }, memory(Math.round(size))));
  }
  const step = Math.max(1, Math.round(Math.log2(high / low) / 6));
  for (let n = low; n <= high * 1.001; n *= 2 ** step) {
    picture.append(make('svg:text', { x: `${x(n)}`, y: `${H - 16}`, 'text-anchor': n === low ? 'start' : x(n) > W - 60 ? 'end' : 'middle' }, count(Math.round(n))));
  }
  picture.append(make('svg:text', { x: `${(left + W) / 2}`, y: `${H - 2}`, 'text-anchor': 'middle' }, say('tokens')));
  picture.append(make('svg:polyline', { class: 'line', points: points.map(([n, size]) => `${x(n).toFixed(1)},${y(size).toFixed(1)}`).join(' ') }));
  if (capacity && capacity <= most) {
    picture.append(make('svg:line', { class: 'card-limit', x1: `${left}`, x2: `${W - right}`, y1: `${y(capacity)}`, y2: `${y(capacity)}` }),
      make('svg:text', { x: `${left + 6}`, y: `${y(capacity) - 5}` }, `${say('limit')}: ${memory(capacity)}`));
    if (fitsTo >= low && fitsTo <= high) {
      picture.append(make('svg:circle', { class: 'cross', cx: `${x(fitsTo)}`, cy: `${y(capacity)}`, r: '5' }),
        make('svg:text', { x: `${Math.min(x(fitsTo), W - 190)}`, y: `${y(capacity) + 18}` }, say('crosses', { count: count(fitsTo) })));
    }
  }
  if (now && now[0] >= low && now[0] <= high) picture.append(make('svg:circle', { class: 'here', cx: `${x(now[0])}`, cy: `${y(now[1])}`, r: '5' }));
  return picture;
}

// Rows of { values: [length, batch], memory_bytes, fits } as a table of colours.
export function heat(lengths, batches, rows, capacity, now) {
  const cells = new Map(rows.map((row) => [row.values.join('/'), row]));
  return make('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': say('grid_title') }, make('table', { class: 'heat' },
    make('caption', { class: 'hint' }, `${say('sequence_length')} ↓ · ${say('batch_size')} →`),
    make('thead', {}, make('tr', {}, make('td', {}), batches.map((n) => make('th', { scope: 'col' }, count(n))))),
    make('tbody', {}, lengths.map((length) => make('tr', {}, make('th', { scope: 'row' }, count(length)), batches.map((batch) => {
      const row = cells.get(`${length}/${batch}`);
      if (!row?.memory_bytes) return make('td', {}, '–');
      const size = total(row.memory_bytes);
      const said = row.fits === true ? '✓ ' : row.fits === false ? '✗ ' : '';
      const cell = make('td', { class: `${row.fits === true ? 'fits' : row.fits === false ? 'full' : ''} ${now && now[0] === length && now[1] === batch ? 'now' : ''}`, title: `${count(size)} B` }, said + memory(size));
      if (row.fits === true && capacity) cell.style.setProperty('--share', String(Math.round(10 + (30 * size) / capacity)));
      return cell;
    }))))));
}

// ------------------------------------------------------------------ downloads

// The bar as one self-contained drawing, on paper or on a canvas: rectangles and lines of text.
function drawing(title, parts, capacity) {
  const colours = ['#1f6feb', '#b45309', '#0f766e', '#9333ea', '#be123c', '#4d7c0f', '#57534e', '#0369a1'];
  const W = 900, left = 20, wide = W - 40;
  const whole = parts.reduce((sum, part) => sum + part.size, 0);
  const scale = wide / (Math.max(whole, capacity) || 1);
  const shapes = [{ text: title, x: left, y: 32, size: 20, fill: '#16202c' }, { text: `${memory(whole)}${capacity ? ` ${say('of')} ${memory(capacity)}` : ''}`, x: left, y: 58, size: 16, fill: '#16202c' }, { x: left, y: 74, w: wide, h: 40, fill: '#e4e9ef' }];
  let at = left;
  let line = 146;
  for (const part of parts) {
    const fill = colours[part.colour];
    shapes.push({ x: at, y: 74, w: part.size * scale, h: 40, fill });
    at += part.size * scale;
    shapes.push({ x: left, y: line - 12, w: 14, h: 14, fill }, { text: `${say(part.name)}  ${memory(part.size)}`, x: left + 22, y: line, size: 14, fill: '#16202c' });
    if (part.formula) shapes.push({ text: part.formula.slice(0, 130), x: left + 22, y: line + 17, size: 11, fill: '#4d5a69' });
    line += 42;
  }
  if (capacity) shapes.push({ x: left + capacity * scale - 2, y: 68, w: 3, h: 52, fill: '#a61b1b' });
  return { W, H: line, shapes };
}

export function saveSvg(title, parts, capacity) {
  const { W, H, shapes } = drawing(title, parts, capacity);
  const picture = make('svg:svg', { xmlns: 'http://www.w3.org/2000/svg', viewBox: `0 0 ${W} ${H}`, width: `${W}`, height: `${H}`, 'font-family': 'sans-serif' }, make('svg:rect', { width: `${W}`, height: `${H}`, fill: '#ffffff' }),
    shapes.map((each) => (each.text ? make('svg:text', { x: `${each.x}`, y: `${each.y}`, 'font-size': `${each.size}`, fill: each.fill }, each.text) : make('svg:rect', { x: `${each.x}`, y: `${each.y}`, width: `${Math.max(each.w, 0)}`, height: `${each.h}`, fill: each.fill }))));
  save('memory.svg', 'image/svg+xml', new XMLSerializer().serializeToString(picture));
}

export function savePng(title, parts, capacity) {
  const { W, H, shapes } = drawing(title, parts, capacity);
  const canvas = make('canvas', { width: 2 * W, height: 2 * H });
  const pen = canvas.getContext('2d');
  pen.scale(2, 2);
  pen.fillStyle = '#ffffff';
  pen.fillRect(0, 0, W, H);
  for (const each of shapes) {
    pen.fillStyle = each.fill;
    if (each.text) {
      pen.font = `${each.size}px sans-serif`;
      pen.fillText(each.text, each.x, each.y);
    } else pen.fillRect(each.x, each.y, each.w, each.h);
  }
  canvas.toBlob((blob) => save('memory.png', 'image/png', blob), 'image/png');
}
