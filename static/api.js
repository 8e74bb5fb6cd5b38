// The only place that talks to the service.

export class Refusal extends Error {
  constructor(status, reply) {
    super(reply.error ?? `HTTP ${status}`);
    this.status = status;
    this.details = reply.details ?? [];
    this.suggestions = reply.suggestions ?? [];
  }
}

async function read(response) {
  let reply;
  try {
    reply = await response.json();
  } catch {
    throw new Error(`HTTP ${response.status}`);
  }
  if (!response.ok) throw new Refusal(response.status, reply);
  return reply;
}

export const get = async (path, signal) => read(await fetch(path, { signal }));

export const post = async (path, body, signal) =>
  read(
    await fetch(path, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(body),
      signal,
    }),
  );

// A question that is asked again and again: only the newest answer counts, older ones are dropped on the way.
export function newest() {
  let running = null;
  return async (ask) => {
    running?.abort();
    const mine = new AbortController();
    running = mine;
    try {
      const answer = await ask(mine.signal);
      return running === mine ? answer : undefined;
    } catch (fault) {
      if (running !== mine || fault.name === 'AbortError') return undefined;
      throw fault;
    }
  };
}
