// The bar as a picture to keep: one list of rectangles and lines of text, drawn as SVG or on a canvas.

import { make, save } from './make.js';
import { memory, say } from './text.js';

const COLOURS = [
  '#3b5bdb',
  '#0b7285',
  '#b45309',
  '#862e9c',
  '#c2255c',
  '#1864ab',
  '#2b8a3e',
  '#5f3dc4',
  '#495057',
  '#343a40',
];
const INK = '#16202c',
  SOFT = '#4d5a69',
  PAPER = '#ffffff',
  FREE = '#e4e9ef',
  LIMIT = '#a61b1b';
const WIDTH = 960,
  MARGIN = 24;

function shapes(title, parts, capacity) {
  const whole = parts.reduce((sum, part) => sum + part.size, 0);
  const wide = WIDTH - 2 * MARGIN;
  const scale = wide / (Math.max(whole, capacity) || 1);
  const list = [
    { text: title, x: MARGIN, y: 40, size: 20, fill: INK, weight: 'bold' },
    {
      text: `${memory(whole)}${capacity ? ` ${say('of')} ${memory(capacity)}` : ''}`,
      x: MARGIN,
      y: 68,
      size: 16,
      fill: INK,
    },
    { x: MARGIN, y: 86, w: wide, h: 44, fill: FREE },
  ];
  let x = MARGIN;
  let line = 166;
  for (const part of parts) {
    const fill = COLOURS[part.colour];
    list.push({ x, y: 86, w: part.size * scale, h: 44, fill }, { x: MARGIN, y: line - 12, w: 14, h: 14, fill });
    list.push({
      text: `${say(part.name)}  ${memory(part.size)}`,
      x: MARGIN + 24,
      y: line,
      size: 14,
      fill: INK,
      weight: 'bold',
    });
    if (part.formula)
      list.push({
        text: part.formula.length > 140 ? `${part.formula.slice(0, 139)}…` : part.formula,
        x: MARGIN + 24,
        y: line + 18,
        size: 12,
        fill: SOFT,
      });
    x += part.size * scale;
    line += 46;
  }
  if (capacity) list.push({ x: MARGIN + capacity * scale - 2, y: 80, w: 3, h: 56, fill: LIMIT });
  return { list, height: line };
}

export function svg(title, parts, capacity) {
  const { list, height } = shapes(title, parts, capacity);
  const drawn = list.map(({ text, x, y, w, h, size, fill, weight }) =>
    text !== undefined
      ? make('svg:text', { x, y, 'font-size': size, 'font-weight': weight, fill }, text)
      : make('svg:rect', { x, y, width: Math.max(w, 0), height: h, fill }),
  );
  const picture = make(
    'svg:svg',
    { viewBox: `0 0 ${WIDTH} ${height}`, width: WIDTH, height, 'font-family': 'system-ui, sans-serif' },
    make('svg:rect', { width: WIDTH, height, fill: PAPER }),
    drawn,
  );
  return new XMLSerializer().serializeToString(picture);
}

export const saveSvg = (...picture) => save('memory.svg', 'image/svg+xml', svg(...picture));

export function savePng(...picture) {
  const { list, height } = shapes(...picture);
  const canvas = make('canvas', { width: 2 * WIDTH, height: 2 * height });
  const pen = canvas.getContext('2d');
  pen.scale(2, 2);
  pen.fillStyle = PAPER;
  pen.fillRect(0, 0, WIDTH, height);
  for (const { text, x, y, w, h, size, fill, weight } of list) {
    pen.fillStyle = fill;
    pen.font = `${weight ?? 'normal'} ${size}px system-ui, sans-serif`;
    if (text !== undefined) pen.fillText(text, x, y);
    else pen.fillRect(x, y, w, h);
  }
  canvas.toBlob((blob) => save('memory.png', 'image/png', blob), 'image/png');
}
