// The page: reads the address, asks the service after each change, shows its newest answer.

import { followed, show } from './answer.js';
import { get, newest, post, Refusal } from './api.js';
import { applies, assume, clearFaults, draw, know, prepare, putFault, refresh } from './form.js';
import { at, make } from './make.js';
import { body, load, SIZES, state, store } from './state.js';
import { current, measure, say, speak, units } from './text.js';

const PAUSE = 180; // milliseconds after the last change before the service is asked
const form = at('question');
const latest = newest();
let shown = null; // { asked: { calculation_type, body }, reply }: the answer on the page
let timer = 0;

// ------------------------------------------------------------------ asking

function changed(whole = false) {
  store();
  if (whole) draw(form);
  else refresh(form);
  clearTimeout(timer);
  timer = setTimeout(ask, PAUSE);
}

function complete() {
  if (state.source === 'bundled') return Boolean(state.fields.model_name);
  if (state.source === 'config') return Boolean(state.config.trim());
  return SIZES.every((name) => state.fields[name] !== undefined);
}

function request() {
  try {
    return body(applies);
  } catch (fault) {
    clearFaults(form);
    putFault(form, 'config', say('bad_json', { why: fault.message }));
    note(say(shown ? 'marked_still' : 'marked'), true);
    return null;
  }
}

async function ask() {
  if (!complete()) {
    clearFaults(form);
    note(say(`pick_${state.source}`));
    return;
  }
  const question = request();
  if (!question) return;
  const calculation_type = state.calculation_type;
  at('answer').setAttribute('aria-busy', 'true');
  try {
    const reply = await latest((signal) => post(`/api/memory/${calculation_type}`, question, signal));
    if (!reply) return; // a newer question is on its way
    clearFaults(form);
    shown = { asked: { calculation_type, body: question }, reply };
    assume(form, reply.parameters ?? {});
    showAll();
  } catch (fault) {
    clearFaults(form);
    explain(fault);
  }
  at('answer').removeAttribute('aria-busy');
}

function showAll() {
  const warnings = shown.reply.warnings ?? [];
  at('status').replaceChildren(...warnings.map((text) => make('p', { class: 'note' }, text)));
  show(shown);
}

// Messages stand at their fields; what has no field there, and what went wrong on the way, above the answer.
function explain(fault) {
  if (!(fault instanceof Refusal)) {
    note(say('failed', { why: fault.message }), true);
    return;
  }
  const take = (name) => {
    state.fields.model_name = name;
    changed(true);
  };
  const details = fault.details.length
    ? fault.details
    : [{ field: fault.status === 404 ? 'model_name' : '', message: fault.message }];
  const left = details.filter((each) => !putFault(form, each.field, each.message, fault.suggestions, take));
  const words = left.map((each) => (each.field ? `${each.field}: ${each.message}` : each.message)).join(' ');
  note(words || say(shown ? 'marked_still' : 'marked'), true);
}

function note(text = '', bad = false) {
  at('status').replaceChildren(...(text ? [make('p', { class: bad ? 'note bad' : 'note' }, text)] : []));
}

// ------------------------------------------------------------------ language, units, theme

const dark = () => matchMedia('(prefers-color-scheme: dark)').matches;

function dress() {
  speak(state.language || (navigator.language?.startsWith('zh') ? 'zh' : 'en'));
  measure(state.units);
  for (const element of document.querySelectorAll('[data-text]')) element.textContent = say(element.dataset.text);
  for (const element of document.querySelectorAll('[data-label]'))
    element.setAttribute('aria-label', say(element.dataset.label));
  for (const button of document.querySelectorAll('[data-unit]'))
    button.setAttribute('aria-pressed', String(button.dataset.unit === units()));
  at('language').textContent = current() === 'zh' ? 'English' : '中文';
  at('language').lang = current() === 'zh' ? 'en' : 'zh-CN';
  if (state.theme) document.documentElement.dataset.theme = state.theme;
  else delete document.documentElement.dataset.theme;
  at('theme').textContent = say((state.theme || (dark() ? 'dark' : 'light')) === 'dark' ? 'to_light' : 'to_dark');
  document.title = say('title');
}

function redress() {
  store();
  dress();
  draw(form);
  if (!shown) {
    ask();
    return;
  }
  assume(form, shown.reply.parameters ?? {});
  showAll();
}

function listen() {
  at('language').addEventListener('click', () => {
    state.language = current() === 'zh' ? 'en' : 'zh';
    redress();
  });
  at('theme').addEventListener('click', () => {
    state.theme = (state.theme || (dark() ? 'dark' : 'light')) === 'dark' ? 'light' : 'dark';
    redress();
  });
  for (const button of document.querySelectorAll('[data-unit]')) {
    button.addEventListener('click', () => {
      state.units = button.dataset.unit;
      redress();
    });
  }
  for (const link of document.querySelectorAll('a[href="#answer"]')) {
    link.addEventListener('click', (event) => {
      // the part after # is the state
      event.preventDefault();
      at('answer').focus();
      at('answer').scrollIntoView();
    });
  }
  form.addEventListener('submit', (event) => event.preventDefault());
  addEventListener('hashchange', () => {
    load();
    dress();
    draw(form);
    ask();
  });
  followed({ changed });
}

async function start() {
  load();
  dress();
  listen();
  note(say('waiting'));
  try {
    prepare(await get('/api/config/options'), changed);
    draw(form);
    const listed = get('/api/models'); // the answer does not wait for the list
    await ask();
    know((await listed).models);
    refresh(form);
  } catch (fault) {
    note(say('failed', { why: fault.message }), true);
  }
}

start();
