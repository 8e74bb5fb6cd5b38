// Up to four requests side by side, each answered anew, all bars on one scale.

import { newest, post } from './api.js';
import { bar, partsOf, total } from './charts.js';
import { make } from './make.js';
import { restore, state, store } from './state.js';
import { count, GIB, memory, say } from './text.js';

const MOST = 4;
const latest = newest();

export function titleOf({ body }) {
  const model =
    body.model_name ?? (body.config ? `config.json (${body.config.model_type ?? '?'})` : `${body.model_size}B`);
  return [model, body.quantization ?? body.precision, body.engine ?? body.method, body.gpu].filter(Boolean).join(' · ');
}

export async function showCompare(section, shown, tell) {
  const again = () => {
    store();
    showCompare(section, shown, tell);
  };
  const add = make(
    'button',
    {
      type: 'button',
      class: 'primary',
      disabled: state.compare.length >= MOST,
      onclick: () => {
        state.compare = [...state.compare, structuredClone(shown.asked)].slice(0, MOST);
        again();
      },
    },
    say('add'),
  );
  if (!state.compare.length) {
    await latest(async () => undefined); // an answer on its way belongs to a comparison that is gone
    section(
      'compare',
      say('compare_title'),
      make('p', { class: 'hint' }, say('compare_empty')),
      make('div', { class: 'actions' }, add),
    );
    return;
  }
  const asked = state.compare;
  const answers = await latest((signal) =>
    Promise.all(
      asked.map((each) =>
        post(`/api/memory/${each.calculation_type}`, each.body, signal).catch((fault) => {
          if (fault.name === 'AbortError') throw fault;
          return fault;
        }),
      ),
    ),
  );
  if (!answers) return;
  const widest = Math.max(...answers.map((each) => (each.memory_bytes ? total(each.memory_bytes) : 0)));
  const first = answers[0].memory_bytes ? total(answers[0].memory_bytes) : 0;
  section(
    'compare',
    say('compare_title'),
    make(
      'div',
      { class: 'columns' },
      answers.map((answer, index) =>
        column(
          asked[index],
          answer,
          { widest, first: index ? first : 0 },
          {
            away: () => {
              state.compare = state.compare.filter((_, place) => place !== index);
              again();
            },
            open: () => {
              restore(asked[index]);
              tell();
            },
          },
        ),
      ),
    ),
    make('div', { class: 'actions' }, add),
  );
}

function column(asked, answer, { widest, first }, { away, open }) {
  const title = titleOf(asked);
  const buttons = make(
    'div',
    { class: 'actions' },
    make('button', { type: 'button', 'aria-label': `${say('load')}: ${title}`, onclick: open }, say('load')),
    make('button', { type: 'button', 'aria-label': `${say('remove')}: ${title}`, onclick: away }, say('remove')),
  );
  if (answer instanceof Error)
    return make(
      'article',
      {},
      make('h3', {}, title),
      make('p', { class: 'fault' }, answer.message),
      Array.from({ length: 5 }, () => make('span')),
      buttons,
    );
  const size = total(answer.memory_bytes);
  const used = answer.parameters ?? {};
  const percent = new Intl.NumberFormat(navigator.language, {
    style: 'percent',
    maximumFractionDigits: 1,
    signDisplay: 'exceptZero',
  });
  const limit = answer.fit ? answer.fit.gpu_memory_gib * GIB * (answer.fit.gpu_count ?? 1) : 0;
  return make(
    'article',
    {},
    make('h3', {}, title),
    make(
      'p',
      { class: 'hint' },
      `${say(asked.calculation_type)} · ${count(used.batch_size)} × ${count(used.sequence_length)} ${say('tokens')}`,
    ),
    make('div', { class: 'big', 'data-bytes': size }, memory(size)),
    make('p', { class: 'hint' }, first ? `${percent.format(size / first - 1)} ${say('difference')}` : say('first')),
    bar(partsOf(answer), 0, { least: widest }),
    make(
      'ul',
      { class: 'parts' },
      partsOf(answer)
        .filter((part) => part.size)
        .map((part) =>
          make(
            'li',
            {},
            make('span', { class: `swatch c${part.colour}` }),
            make('span', {}, say(part.name)),
            make('span', { class: 'figure' }, memory(part.size)),
          ),
        ),
    ),
    limit
      ? make(
          'p',
          { class: `verdict ${answer.fit.fits ? 'yes' : 'no'}` },
          `${answer.fit.fits ? '✓' : '✗'} ${say(answer.fit.fits ? 'fits' : 'full')}`,
        )
      : make('span', {}),
    buttons,
  );
}
