// Records what XState v5 does with the definitions of cases.json and with generated ones.
//
//   npm install xstate@5.33.3 && node record.mjs cases.json expected.json 300 7 9000
//
// The numbers: how many definitions to generate, from which seed, and the size above which a
// generated case is left out. A larger recording is compared by naming it in
// CONCORDAT_XSTATE_EXPECTED.
//
// The Rust test only reads expected.json, so npm isn't needed to run it. Expressions are kept to
// what CEL and JavaScript read alike, and are evaluated here as JavaScript.
import { readFileSync, writeFileSync } from 'node:fs';
import { createMachine, createActor, assign, raise, and, or, not, stateIn } from 'xstate';

const [, , casesPath, outPath, generated = '0', seed = '1', maxSize = '1e9'] = process.argv;

const evaluate = (expr, context, event) =>
  new Function('context', 'event', 'size', `"use strict"; return (${expr});`)(
    context, { ...event, data: event.data ?? event.output ?? null }, (x) => x.length);

const fill = (template, context, event) => {
  if (Array.isArray(template)) return template.map((t) => fill(t, context, event));
  if (template && typeof template === 'object') {
    if ('cel' in template) return evaluate(template.cel, context, event);
    return Object.fromEntries(
      Object.entries(template).map(([k, v]) => [k, fill(v, context, event)]));
  }
  return template;
};

// XState has no serialised form of its combined guards and of computed outputs: build them.
const guard = (g) => {
  if (typeof g === 'string' || g === undefined) return g;
  if (g.type === 'and') return and(g.params.guards.map(guard));
  if (g.type === 'or') return or(g.params.guards.map(guard));
  if (g.type === 'not') return not(guard(g.params.guard));
  if (g.type === 'stateIn') return stateIn(g.params.state);
  return g;
};
const withGuards = (node) => {
  if (Array.isArray(node)) return node.map(withGuards);
  if (!node || typeof node !== 'object') return node;
  return Object.fromEntries(Object.entries(node).map(([k, v]) =>
    [k, k === 'guard' ? guard(v) : k === 'context' ? v
      : k === 'output' ? ({ context, event }) => fill(v, context, event) : withGuards(v)]));
};

class Clock {
  now = 0; next = 1; timers = new Map();
  setTimeout = (fn, ms) => { this.timers.set(this.next, { due: this.now + Math.max(1, ms), fn }); return this.next++; };
  clearTimeout = (id) => this.timers.delete(id);
  due(until) {
    const due = [...this.timers].filter(([, t]) => t.due <= until).sort((a, b) => a[1].due - b[1].due);
    return due[0];
  }
}

function record({ name, definition, events }) {
  const { delays = {}, ...config } = definition;
  const effects = [];
  let transitions = 0, lastType = null;
  const isRole = (key) => ({ context, event }) => context[key] === event.pubkey;
  const machine = createMachine({ ...withGuards(config), options: { maxIterations: 60 } }, {
    guards: {
      cel: ({ context, event }, { expr }) => evaluate(expr, context, event),
      isCreator: isRole('creatorPubKey'), isExecutor: isRole('executorPubKey'),
      isNotCreator: ({ context, event }) => context.creatorPubKey !== event.pubkey,
    },
    actions: {
      'cel.assign': assign(({ context, event }, params) => Object.fromEntries(
        Object.entries(params).map(([k, expr]) => [k, evaluate(expr, context, event)]))),
      assignExecutor: assign(({ event }) => ({ executorPubKey: event.pubkey })),
      raise: raise(({ context, event }, params) => fill(params, context, event)),
      publish: ({ context, event }, params) => effects.push(fill(params.content ?? '', context, event)),
    },
    delays: Object.fromEntries(Object.entries(delays).map(([k, t]) =>
      [k, ({ context, event }) => fill(t, context, event)])),
  });
  const pending = new Set();
  const clock = new Clock();
  const actor = createActor(machine, {
    clock,
    inspect: (e) => {
      if (e.type === '@xstate.microstep') transitions += e._transitions.length;
      if (e.type === '@xstate.event') { lastType = e.event.type; pending.delete(lastType); }
    },
  });
  actor.subscribe({ error() {} });
  // A state entered again without being left (through a history that leads back to it) leaves an
  // orphan of its timer behind in XState. Here a timer has one due time; such cases are dropped.
  const { schedule, cancel } = actor.system.scheduler;
  let orphan = false;
  actor.system.scheduler.schedule = (source, to, event, delay, id) => {
    orphan ||= pending.has(id);
    pending.add(id);
    schedule(source, to, event, delay, id);
  };
  actor.system.scheduler.cancel = (source, id) => { pending.delete(id); cancel(source, id); };
  const rows = [];
  const row = (event, now) => {
    const snapshot = JSON.parse(JSON.stringify(actor.getPersistedSnapshot()));
    if (snapshot.status === 'error' || orphan) return false;
    const active = actor.getSnapshot()._nodes
      .filter((n) => n.type === 'atomic' || n.type === 'final').map((n) => n.id).sort();
    rows.push({ event, now, accepted: transitions > 0 || event === null, active, snapshot, effects: [...effects] });
    transitions = 0; effects.length = 0;
    return true;
  };
  actor.start();
  if (!row(null, 0)) return { name, definition, rows: null };
  for (const event of events) {
    const now = event.now ?? clock.now;
    for (let t; (t = clock.due(now));) {
      clock.now = t[1].due; clock.timers.delete(t[0]);
      t[1].fn();
      if (!row({ type: lastType }, clock.now)) return { name, definition, rows };
    }
    clock.now = now;
    const { now: _, ...sent } = event;
    actor.send(sent);
    if (!row(event, now)) return { name, definition, rows };
  }
  return { name, definition, rows };
}

// --- generated definitions -------------------------------------------------------------------
let s = BigInt(seed) * 0x9e3779b97f4a7c15n + 1n;
const rnd = (n) => {
  s = (s * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn;
  return Number((s >> 33n) % BigInt(n));
};
const pick = (xs) => xs[rnd(xs.length)];
const TYPES = ['a', 'b', 'c', 'p.q', 'p.q.r'];
const DESCRIPTORS = ['a', 'b', 'c', 'p.q', 'p.*', 'p.q.*', '*'];
const GUARDS = ['context.n % 2 == 0', 'context.n < 4', 'event.type == "a"', 'context.m != context.n'];

function generate(n) {
  const paths = [], parallels = [];
  let delay = 1000 + rnd(500);
  const shape = (path, depth) => {
    paths.push(path);
    const kind = path.length === 0 ? pick(['compound', 'compound', 'parallel'])
      : depth > 3 ? 'atomic' : pick(['atomic', 'atomic', 'compound', 'compound', 'parallel']);
    if (kind === 'atomic') return {};
    const states = {};
    const keys = ['x', 'y', '7', 'z', '3'].slice(0, 2 + rnd(3));
    if (rnd(4) === 0) keys.reverse();
    for (const k of keys) states[k] = shape([...path, k], depth + 1);
    if (kind === 'parallel') { parallels.push([path, keys]); return { type: 'parallel', states }; }
    if (rnd(3) === 0) { states.f = { type: 'final' }; paths.push([...path, 'f']); }
    if (rnd(3) === 0) {
      states.h = { type: 'history' };
      if (rnd(2)) states.h.history = 'deep';
      if (rnd(3) === 0) states.h.target = pick(keys);
      paths.push([...path, 'h']);
    }
    return { initial: pick(keys), states };
  };
  const root = shape([], 0);
  const label = (at, what) => ({ type: 'publish', params: { kind: 1, content: `${what} ${at}` } });
  const actions = (at, what) => {
    const list = [label(at, what)];
    if (rnd(3) === 0) list.push({ type: 'cel.assign', params: { n: 'context.n + 1' } });
    if (rnd(6) === 0) list.push({ type: 'cel.assign', params: { m: 'context.n', n: 'context.m + 2' } });
    if (rnd(7) === 0) list.push({ type: 'raise', params: { type: pick(TYPES), data: { cel: 'context.n' } } });
    return list;
  };
  const target = (path) => {
    const t = pick(paths);
    if (rnd(4) === 0 && path.length) {
      const sib = paths.filter((p) => p.length === path.length && p.slice(0, -1).join() === path.slice(0, -1).join());
      return pick(sib).at(-1);
    }
    const below = paths.filter((p) => p.length === path.length + 1 && p.slice(0, -1).join() === path.join());
    if (rnd(4) === 0 && below.length) return '.' + pick(below).at(-1);
    return '#' + ['m', ...t].join('.');
  };
  const transition = (path, what) => {
    const t = { actions: actions(path.join('.'), what) };
    if (rnd(5)) t.target = target(path);
    if (rnd(5) === 0 && parallels.length) {
      // Two regions at once: other pairs can't be active together, and the engine refuses them.
      const [at, keys] = pick(parallels);
      const first = rnd(keys.length);
      t.target = [first, (first + 1) % keys.length].map((k) => {
        const below = paths.filter((p) => [...at, keys[k]].every((s, i) => p[i] === s));
        return '#' + ['m', ...pick(below)].join('.');
      });
    }
    if (rnd(4) === 0) t.reenter = true;
    if (rnd(3) === 0) t.guard = { type: 'cel', params: { expr: pick(GUARDS) } };
    if (rnd(9) === 0) t.guard = { type: 'stateIn', params: { state: '#' + ['m', ...pick(paths)].join('.') } };
    if (rnd(12) === 0) t.guard = { type: 'not', params: { guard: { type: 'cel', params: { expr: pick(GUARDS) } } } };
    return t;
  };
  const dress = (node, path) => {
    if (node.type === 'history') return;
    const at = path.join('.');
    if (rnd(3)) node.entry = actions(at, 'in');
    if (rnd(3)) node.exit = actions(at, 'out');
    if (node.type === 'final') { if (rnd(2)) node.output = { at }; return; }
    if (rnd(4)) {
      node.on = {};
      for (let i = rnd(4); i >= 0; i--) {
        const d = pick(DESCRIPTORS);
        node.on[d] = rnd(3) ? transition(path, d) : [transition(path, d), transition(path, d)];
      }
    }
    if (rnd(8) === 0) node.always = [{ ...transition(path, 'always'), guard: { type: 'cel', params: { expr: pick(GUARDS) } } }];
    if (rnd(4) === 0) node.after = { [delay += 37 + rnd(200)]: transition(path, 'after') };
    if (node.states) {
      if (rnd(3) === 0) node.onDone = transition(path, 'done');
      for (const [k, v] of Object.entries(node.states)) dress(v, [...path, k]);
    }
  };
  dress(root, []);
  const definition = { id: 'm', context: { n: rnd(3), m: 0 }, ...root };
  if (rnd(2)) definition.output = { n: { cel: 'context.n' } };
  let now = 0;
  const events = [];
  for (let i = 0; i < 8; i++) {
    now += rnd(3) ? 0 : 100 + rnd(2500);
    events.push({ type: pick(TYPES), data: i, now });
  }
  return { name: `generated ${seed}/${n}`, definition, events };
}

const out = [];
const attempt = (c, generated) => {
  try {
    const r = record(c);
    if (r.rows && !(generated && JSON.stringify(r).length > Number(maxSize))) out.push({ ...r, definition: JSON.stringify(r.definition) });
    else if (!r.rows && !generated) throw new Error(`${c.name}: the start failed`);
  } catch (e) {
    if (!generated) throw e;
  }
};
for (const c of JSON.parse(readFileSync(casesPath, 'utf8'))) attempt(c, false);
for (let n = 0; n < Number(generated); n++) attempt(generate(n), true);
writeFileSync(outPath, '[\n' + out.map((c) => JSON.stringify(c)).join(',\n') + '\n]\n');
console.log(`${out.length} cases`);
