// What the reader takes along: a link, the request as a command, pictures, figures.

import { partsOf } from './charts.js';
import { titleOf } from './compare.js';
import { savePng, saveSvg } from './drawing.js';
import { make, save } from './make.js';
import { address } from './state.js';
import { GIB, say } from './text.js';

export function showShare(section, { asked, reply }) {
  const where = `${location.origin}/api/memory/${asked.calculation_type}`;
  const curl = asCurl(where, asked.body);
  const limit = (reply.fit?.gpu_memory_gib ?? 0) * GIB * (reply.fit?.gpu_count ?? 1);
  const picture = [titleOf(asked), partsOf(reply), limit];
  const copier = (label, text) =>
    make('button', { type: 'button', onclick: (event) => copy(text(), event.currentTarget, label) }, say(label));
  const keeper = (label, keep) => make('button', { type: 'button', onclick: keep }, say(label));
  section(
    'share',
    say('share_title'),
    make(
      'div',
      { class: 'actions' },
      copier('link', () => `${location.origin}${location.pathname}#${address()}`),
      copier('curl', () => curl),
      copier('python', () => asPython(where, asked.body)),
      keeper('svg', () => saveSvg(...picture)),
      keeper('png', () => savePng(...picture)),
      keeper('csv', () => save('memory.csv', 'text/csv', asCsv(reply))),
      keeper('json', () => save('memory.json', 'application/json', JSON.stringify(reply, null, 2))),
    ),
    make('pre', { tabindex: '0', role: 'region', 'aria-label': 'curl' }, curl),
  );
}

const asCurl = (where, body) => `curl -s ${where} -d '${JSON.stringify(body).replaceAll("'", "'\\''")}'`;

function asPython(where, body) {
  const words = { true: 'True', false: 'False', null: 'None' };
  const value = JSON.stringify(body, null, 4).replace(
    /("(?:[^"\\]|\\.)*")|\b(true|false|null)\b/g,
    (_, text, word) => text ?? words[word],
  );
  return `import requests

response = requests.post("${where}", json=${value})
response.raise_for_status()
print(response.json()["memory_requirements"])
`;
}

function asCsv(reply) {
  const formula = Object.fromEntries(partsOf(reply).map((part) => [part.name, part.formula]));
  const rows = [
    ['part', 'bytes', 'formula'],
    ...Object.entries(reply.memory_bytes).map(([name, size]) => [name, size, formula[name] ?? '']),
  ];
  return rows.map((row) => row.map((cell) => `"${String(cell).replaceAll('"', '""')}"`).join(',')).join('\r\n');
}

async function copy(text, button, label) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // a page that is not served from this machine or over TLS has no clipboard
    const box = make('textarea', { 'aria-label': say(label), class: 'away' }, text);
    document.body.append(box);
    box.select();
    document.execCommand('copy');
    box.remove();
    button.focus();
  }
  button.textContent = say('copied');
  setTimeout(() => {
    button.textContent = say(label);
  }, 1500);
}
